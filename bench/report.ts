import { summarize } from '../tools/statistics.ts'
import { type BaselineRow, type Entry, type LoadName, loads, type Results, type Row } from './results.ts'
import { byThroughput, errorsOf, type Target, targetsOf } from './targets.ts'

/** The results of one contestant under one load with one number of clients, in each round. */
export interface Median {
  contestant: string
  load: LoadName
  clients: number
  values: Record<Column, number[]>
}

type Column = (typeof columns)[number][0]

const columns = [
  ['imagesPerSecond', 'images/s'],
  ['p50', 'p50 ms'],
  ['p95', 'p95 ms'],
  ['p99', 'p99 ms'],
  ['cpu', 'CPU ms/image'],
  ['memory', 'MiB'],
  ['health50', 'live p50 ms'],
  ['health99', 'live p99 ms'],
  ['eventLoop', 'event loop p99 ms'],
  ['errors', 'errors'],
] as const

/** Groups rows by contestant, load and number of clients. */
export function gather(rows: readonly Row[]): Median[] {
  const groups = Map.groupBy(rows, ({ contestant, load, clients }) => `${contestant} ${load} ${clients}`)
  return [...groups.values()].map((group) => {
    const { contestant, load, clients } = group[0] as Row
    const of = (value: (row: Row) => number | null) => group.map(value).filter((found) => found !== null)
    return {
      ...{ contestant, load, clients },
      values: {
        imagesPerSecond: of((row) => row.imagesPerSecond),
        p50: of((row) => row.latencyMs.p50),
        p95: of((row) => row.latencyMs.p95),
        p99: of((row) => row.latencyMs.p99),
        cpu: of((row) => row.cpuMsPerImage),
        memory: of((row) => row.memoryMiB),
        health50: of((row) => row.health.p50),
        health99: of((row) => row.health.p99),
        eventLoop: of((row) => row.eventLoopMs),
        errors: of((row) => errorsOf(row) + row.health.failed),
      },
    }
  })
}

/** The baseline's rows under a load at the batch size with the highest median throughput, on whole batches or in parts. */
export function fastestBaseline(baseline: readonly BaselineRow[], load: LoadName, inParts: boolean): BaselineRow[] {
  const sizes = Map.groupBy(
    baseline.filter((row) => row.load === load && row.inParts === inParts),
    ({ batch }) => batch,
  )
  const fastest = [...sizes.values()].map((rows) => ({
    rows,
    imagesPerSecond: summarize(rows.map((row) => row.imagesPerSecond)).median,
  }))
  return fastest.toSorted(byThroughput)[0]?.rows ?? []
}

/** The results as a Markdown page: the targets, then everything by load. */
export function markdown(results: Results): string {
  const medians = gather(results.rows)
  const rounds = new Set([...results.rows, ...results.baseline].map(({ round }) => round)).size
  const present = (Object.keys(loads) as LoadName[]).filter((load) =>
    [...results.rows, ...results.baseline].some((row) => row.load === load),
  )
  return [
    '# Benchmark',
    `Medians of ${rounds} round${rounds === 1 ? '' : 's'}, lowest to highest in parentheses. bench/README.md says how this is measured.`,
    table(['machine', ''], Object.entries(results.machine)),
    '## Targets',
    targetTable(targetsOf(results)),
    '## Contestants',
    table(
      ['contestant', 'same tokens as the service', 'start to first answer, s', ''],
      results.entries.map((entry) => contestantRow(entry, results)),
    ),
    '![Throughput and latency by clients](plot.svg)',
    ...present.flatMap((load) => [
      `## ${loads[load].title.replace(/^./, (letter) => letter.toUpperCase())}`,
      table(
        ['contestant', 'clients', ...columns.map(([, title]) => title)],
        [
          ...[false, true].flatMap((inParts) => baselineRow(fastestBaseline(results.baseline, load, inParts))),
          ...results.entries.flatMap(({ name, title }) =>
            medians
              .filter((median) => median.load === load && median.contestant === name)
              .map(({ clients, values }) => [title, clients, ...columns.map(([column]) => spread(values[column]))]),
          ),
        ],
      ),
    ]),
  ].join('\n\n')
}

/** Targets as a Markdown table. */
export function targetTable(targets: Target[]): string {
  return table(
    ['what', 'target', 'measured', ''],
    targets.map(({ what, target, measured, met }) => [
      what,
      target,
      measured === undefined ? '' : spread([measured.min, measured.median, measured.max]),
      met === undefined ? 'not measured' : met ? 'met' : '**not met**',
    ]),
  )
}

/** Images per second by contestant and load, as a Markdown table. */
export function throughputTable({ entries, rows }: Pick<Results, 'entries' | 'rows'>): string {
  const present = (Object.keys(loads) as LoadName[]).filter((load) => rows.some((row) => row.load === load))
  return table(
    ['', ...present.map((load) => `${loads[load].title}, images/s`)],
    entries.map(({ name, title }) => [
      title,
      ...present.map((load) =>
        spread(
          rows
            .filter((row) => row.contestant === name && row.load === load)
            .map(({ imagesPerSecond }) => imagesPerSecond),
        ),
      ),
    ]),
  )
}

function contestantRow({ name, title, agreement, failure }: Entry, { coldStarts }: Results): string[] {
  const starts = coldStarts.filter(({ contestant }) => contestant === name).map(({ seconds }) => seconds)
  const share = agreement === undefined ? '' : `${(agreement.tokens * 100).toFixed(2)} %`
  return [title, share, spread(starts), failure === undefined ? 'ran' : `**not run**, or not to the end: ${failure}`]
}

function baselineRow(rows: BaselineRow[]): (string | number)[][] {
  if (rows.length === 0) return []
  const of = (value: (row: BaselineRow) => number) => spread(rows.map(value))
  const latencies = (['p50', 'p95', 'p99'] as const).map((name) => of(({ latencyMs }) => latencyMs[name]))
  return [
    [
      `baseline, ${rows[0]?.inParts ? '' : 'whole '}batches of ${rows[0]?.batch}`,
      '',
      of((row) => row.imagesPerSecond),
      ...latencies,
      of((row) => row.cpuMsPerImage),
      of((row) => row.memoryMiB),
      ...['', '', '', ''],
    ],
  ]
}

export function spread(values: number[]): string {
  if (values.length === 0) return ''
  const { median, min, max } = summarize(values)
  return min === max ? short(median) : `${short(median)} (${short(min)}–${short(max)})`
}

function short(value: number): string {
  return Number(value.toPrecision(3)).toString()
}

export function table(head: string[], rows: (string | number)[][]): string {
  const line = (cells: (string | number)[]) =>
    `| ${cells.map((cell) => `${cell}`.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}
