// Memory of the service and what its start costs, alone or beside another checkout; see `--help`.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { usableCores } from '../src/inference/sizing.ts'
import { encodeCalls, send } from '../tools/calls.ts'
import { checkOut, commitOf } from '../tools/checkout.ts'
import type { LoadResult } from '../tools/clients.ts'
import { makeCrops, readImages } from '../tools/images.ts'
import { cpuSeconds, memoryByProcess } from '../tools/process-tree.ts'
import { runScript } from '../tools/script.ts'
import { root, Service } from '../tools/service.ts'
import { describeMachine } from './machine.ts'
import { spread, table } from './report.ts'

/** One start of one checkout. */
interface Row {
  round: number
  side: string
  /** Whether it had to fill its cache. */
  first: boolean
  /** Seconds from the start to the first answer: of processor time, and on the clock. */
  cpuSeconds: number
  seconds: number
  started: Memory
  loaded: Memory
  /** Milliseconds of processor time. */
  cpuMsPerImage: number
  errors: number
}

/** In MiB; shared pages count once in `all`. */
interface Memory {
  all: number
  server: number
  /** Of each engine, what it shares with none. */
  engines: number[]
}

/** Images per request, in turn. */
const BATCHES = [1, 3, 8, 32]

const options = new Command('bench:memory')
  .description('Memory after the start and after a load of mixed sizes, and the processor time of a start.')
  .option('--against <checkout>', 'a folder or a commit to measure in turn with this one')
  .option('--rounds <n>', 'starts of each; before these comes one with an empty cache', Number, 4)
  .option('--images <n>', 'images of the load, encoded and decoded', Number, 4000)
  .option('--plain', 'without the start script, and so without jemalloc')
  .option('--out <folder>', 'for memory.json and memory.md', join(import.meta.dirname, 'results'))
  .parse()
  .opts<{ against?: string; rounds: number; images: number; plain?: true; out: string }>()

const work = await mkdtemp(join(tmpdir(), 'bench-'))
const other = options.against === undefined ? undefined : await checkOut(options.against)
const sides = [{ name: `this (${await commitOf(root)})`, folder: root }]
if (other) sides.push({ name: `other (${other.commit})`, folder: other.folder })
const rows: Row[] = []
try {
  const { crops } = await makeCrops(work, 128)
  const [call] = await encodeCalls(await readImages(crops), 1)
  if (call === undefined) throw new Error('no crops were made')
  for (let round = 0; round <= options.rounds; round++) {
    for (const [index, { name, folder }] of sides.entries()) {
      const service = await start(folder, join(work, `cache-${index}`))
      try {
        const { status } = await send(service.url, call)
        if (status !== 200) throw new Error(`${name} answered ${status}`)
        const begun = { cpuSeconds: await cpuSeconds(service.pid), seconds: (performance.now() - service.began) / 1000 }
        const started = await memoryOf(service.pid)
        const load = await loadOf(service, crops)
        rows.push({ round, side: name, first: round === 0, ...begun, started, ...load })
        console.error(`round ${round}, ${name}: ${JSON.stringify(rows.at(-1))}`)
      } finally {
        await service.stop()
      }
    }
  }
  const machine = await describeMachine(await usableCores(), join(root, 'models', 'nativetok-128'))
  const text = report()
  await mkdir(options.out, { recursive: true })
  await writeFile(join(options.out, 'memory.json'), `${JSON.stringify({ machine, options, rows }, null, 1)}\n`)
  await writeFile(join(options.out, 'memory.md'), text)
  console.log(text)
} finally {
  await other?.dispose()
  await rm(work, { recursive: true })
}

async function start(checkout: string, cache: string): Promise<Service & { began: number }> {
  const began = performance.now()
  const service = await Service.start({
    ...{ checkout, flags: ['--drain-delay', '0'], env: { NATIVETOK_CACHE: cache } },
    ...(options.plain && { plain: true }),
  })
  return Object.assign(service, { began })
}

async function memoryOf(pid: number): Promise<Memory> {
  const [server, ...engines] = await memoryByProcess(pid)
  const all = [server, ...engines].reduce((sum, one) => sum + (one?.withSharedMiB ?? 0), 0)
  return { all, server: server?.ownMiB ?? Number.NaN, engines: engines.map(({ ownMiB }) => ownMiB) }
}

/** Sends images in requests of several sizes, and reads the memory after that. */
async function loadOf(
  { url, pid }: Service,
  photos: string,
): Promise<Pick<Row, 'loaded' | 'cpuMsPerImage' | 'errors'>> {
  const before = await cpuSeconds(pid)
  let images = 0
  let errors = 0
  for (const batch of BATCHES) {
    const result = await runScript<LoadResult>('tools/clients.ts', {
      ...{ url, pid, photos, route: 'mix', clients: Math.ceil(32 / batch), batch },
      ...{ images: Math.ceil(options.images / BATCHES.length), seconds: 'Infinity' },
    })
    images += result.images
    errors += Object.values(result.errors).reduce((sum, count) => sum + count, 0)
  }
  return {
    loaded: await memoryOf(pid),
    cpuMsPerImage: (((await cpuSeconds(pid)) - before) * 1000) / images,
    errors,
  }
}

/** Medians with lowest and highest, and ratios within a round. */
function report(): string {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  const figures: [string, (row: Row) => number][] = [
    ['CPU s to the first answer', (row) => row.cpuSeconds],
    ['s to the first answer', (row) => row.seconds],
    ['MiB then', (row) => row.started.all],
    ['server', (row) => row.started.server],
    ['an engine', (row) => mean(row.started.engines)],
    ['MiB after the load', (row) => row.loaded.all],
    ['server', (row) => row.loaded.server],
    ['an engine', (row) => mean(row.loaded.engines)],
    ['CPU ms/image', (row) => row.cpuMsPerImage],
    ['errors', (row) => row.errors],
  ]
  const of = (side: string | undefined, first: boolean) =>
    rows.filter((row) => row.side === side && row.first === first)
  const lines = [true, false].flatMap((first) => {
    const [mine = [], others = []] = sides.map(({ name }) => of(name, first))
    const label = first ? 'empty cache' : 'later starts'
    const values = sides.map(({ name }) => [
      ...[label, name],
      ...figures.map(([, value]) => spread(of(name, first).map(value))),
    ])
    const ratios = figures.map(([title, value]) =>
      title === 'errors' ? '' : spread(others.map((row, i) => value(mine[i] as Row) / value(row))),
    )
    return others.length > 0 ? [...values, [label, '**this over other**', ...ratios]] : values
  })
  return `${table(['start', 'checkout', ...figures.map(([title]) => title)], lines)}\n`
}
