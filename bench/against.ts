import { join } from 'node:path'
import { type Checkout, checkOut, commitOf } from '../tools/checkout.ts'
import { root, serviceCommand } from '../tools/service.ts'
import type { Contestant } from './contestants.ts'
import { type Plan, race } from './race.ts'
import { spread, table } from './report.ts'
import { type LoadName, loads, type Results, type Row } from './results.ts'
import { errorsOf } from './targets.ts'

/** Loads and numbers of clients to compare checkouts under. */
const LOADS = ['encode-crops', 'encode-photos', 'decode'] as const
const CLIENTS = [1, 32]
const THIS = 'this'
const OTHER = 'other'

/** Two checkouts of the service under the same loads. */
export interface Comparison extends Pick<Results, 'entries' | 'rows' | 'coldStarts'> {
  /** Abbreviated commits, with `+` if files differ from them. */
  commits: Record<typeof THIS | typeof OTHER, string>
}

/**
 * Runs this checkout and another in turn, each with its own start script, packages and bundle.
 *
 * @param which a folder or a commit
 */
export async function compareCheckouts(
  plan: Pick<Plan, 'model' | 'cores' | 'rounds' | 'seconds' | 'imageSize' | 'say'>,
  which: string,
): Promise<Comparison> {
  const checkout = await checkOut(which)
  try {
    const commits = { this: await commitOf(root), other: checkout.commit }
    const service = contestant(THIS, `this (${commits.this})`, { folder: root })
    const other = contestant(OTHER, `other (${commits.other})`, checkout)
    const { entries, rows, coldStarts } = await race({
      ...{ ...plan, service, contestants: [service, other], baseline: false, allowOtherModels: true },
      ...{ loads: [...LOADS], clients: CLIENTS },
    })
    return { commits, entries, rows, coldStarts }
  } finally {
    await checkout.dispose()
  }
}

function contestant(name: string, title: string, { folder }: Pick<Checkout, 'folder'>): Contestant {
  const flags = ['--drain-delay', '0', '--model', join(folder, 'models', 'nativetok-128')]
  return { name, title, command: ({ port }) => serviceCommand(port, flags, folder) }
}

const figures: [title: string, value: (row: Row) => number | null][] = [
  ['images/s', (row) => row.imagesPerSecond],
  ['p50 ms', (row) => row.latencyMs.p50],
  ['p99 ms', (row) => row.latencyMs.p99],
  ['CPU ms/image', (row) => row.cpuMsPerImage],
  ['MiB', (row) => row.memoryMiB],
]

/** Medians, lowest and highest of the rounds, and the same of the ratios within a round, as Markdown. */
export function comparisonTable({ entries, rows, coldStarts }: Comparison): string {
  const failures = entries.filter(({ failure }) => failure !== undefined)
  const title = (name: string) => entries.find((entry) => entry.name === name)?.title ?? name
  const line = (name: string, found: Row[]) => {
    const errors = found.reduce((sum, row) => sum + errorsOf(row) + row.health.failed, 0)
    return [title(name), ...figures.map(([, value]) => spread(known(found.map(value)))), `${errors}`]
  }
  const measured = LOADS.flatMap((load) =>
    CLIENTS.flatMap((clients) => {
      const [mine, others] = [THIS, OTHER].map((name) => rowsOf(rows, name, load, clients)) as [Row[], Row[]]
      const ratios = figures.map(([, value]) => spread(ratiosOf(mine, others, value)))
      return [line(THIS, mine), line(OTHER, others), ['**this over other**', ...ratios, '']].map((cells) => [
        ...[loads[load].title, clients],
        ...cells,
      ])
    }),
  )
  const starts = [THIS, OTHER].map((name) => coldStarts.filter(({ contestant }) => contestant === name))
  const [mine = [], others = []] = starts.map((all) => all.map(({ seconds }) => seconds))
  return [
    ...failures.map((entry) => `**${entry.title} failed**: ${entry.failure}`),
    table(['load', 'clients', 'checkout', ...figures.map(([name]) => name), 'errors'], measured),
    table(
      ['checkout', 'start to first answer, s'],
      [
        [title(THIS), spread(mine)],
        [title(OTHER), spread(others)],
        [
          '**this over other**',
          spread(mine.slice(0, others.length).map((seconds, i) => seconds / (others[i] as number))),
        ],
      ],
    ),
  ].join('\n\n')
}

function rowsOf(rows: readonly Row[], name: string, load: LoadName, clients: number): Row[] {
  return rows.filter((row) => row.contestant === name && row.load === load && row.clients === clients)
}

/** Of rounds in which both sides were measured. */
function ratiosOf(mine: Row[], others: Row[], value: (row: Row) => number | null): number[] {
  return known(
    mine.map((row) => {
      const other = others.find(({ round }) => round === row.round)
      const [a, b] = [value(row), other ? value(other) : null]
      return a === null || b === null ? null : a / b
    }),
  )
}

function known(values: (number | null)[]): number[] {
  return values.filter((value) => value !== null)
}
