// Open-loop load on the service, alone or compared with another checkout; see `--help`.
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { Agent } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, Option } from 'commander'
import { readBundle } from '../src/inference/bundle.ts'
import { usableCores } from '../src/inference/sizing.ts'
import { keepAliveAgent, poissonArrivals, sendWhenDue } from '../tools/arrivals.ts'
import { type Call, encodeCalls } from '../tools/calls.ts'
import { type Checkout, checkOut, commitOf } from '../tools/checkout.ts'
import type { LoadResult } from '../tools/clients.ts'
import { freePort } from '../tools/free-port.ts'
import { makeCrops, readImages } from '../tools/images.ts'
import { cpuSeconds, machineCpuSeconds } from '../tools/process-tree.ts'
import { Random } from '../tools/random.ts'
import { runScript } from '../tools/script.ts'
import { Server } from '../tools/server.ts'
import { isReady, root, Service } from '../tools/service.ts'
import { percentile, summarize } from '../tools/statistics.ts'
import { describeMachine } from './machine.ts'
import { spread, table } from './report.ts'

/** One checkout under one load, direct or proxied, in one round. */
interface Row {
  round: number
  side: string
  path: Path
  /** Arriving load in percent of the capacity. */
  share: number
  requests: number
  images: number
  /** Milliseconds from when a request was due to the end of its answer. */
  p50: number
  p95: number
  p99: number
  /** The number of each status other than 200 and of each error code. */
  errors: Record<string, number>
  /** Milliseconds of processor time of the service's process tree. */
  cpuMsPerImage: number
  /** Cores that processes other than the service, the proxy and this client used meanwhile. */
  othersCores: number
  /** 99th percentile of how many milliseconds after they were due requests were sent: whether the client kept up. */
  lateness: number
}

type Path = 'direct' | 'proxy'

/** A running checkout. */
interface Side {
  name: string
  commit: string
  service: Service
  proxy?: Server
}

const IMAGES_PER_REQUEST = [1, 2, 3, 4, 5, 6, 7, 8]
const MEAN_IMAGES = summarize(IMAGES_PER_REQUEST).median
/** The closed-loop load that measures the capacity: enough for full batches. */
const CAPACITY = { clients: 16, batch: 4, 'warm-up': 1 }
const SETTLE_MS = 300

const options = new Command('bench:arrivals')
  .description(
    'Open-loop load: requests of 1 to 8 images arrive at random (a Poisson process) at shares of the measured capacity, ' +
      'whether or not earlier ones are answered. Latency counts from when a request was due.',
  )
  .option('--against <checkout>', 'a folder or a commit to compare with; both run in turn under the same arrivals')
  .option('--shares <list>', 'percent of the capacity', numbers, [50, 70, 90])
  .addOption(
    new Option('--paths <list>', 'direct, proxy (HAProxy that pools connections), or both').default('direct,proxy'),
  )
  .option('--capacity <n>', 'images per second, instead of measuring the capacity in each round', Number)
  .option('--rounds <n>', 'number of rounds', Number, 4)
  .option('--seconds <s>', 'length of one measurement', Number, 6)
  .option('--seed <n>', 'of everything random', Number, 1)
  .option('--out <folder>', 'for arrivals.json and arrivals.md', join(import.meta.dirname, 'results'))
  .parse()
  .opts<{
    against?: string
    shares: number[]
    paths: string
    capacity?: number
    rounds: number
    seconds: number
    seed: number
    out: string
  }>()
const paths = options.paths.split(',') as Path[]
const unknown = paths.find((path) => path !== 'direct' && path !== 'proxy')
if (unknown !== undefined) throw new Error(`--paths ${unknown}: it must be direct, proxy or both`)
if (paths.includes('proxy') && spawnSync('haproxy', ['-v']).status !== 0) {
  throw new Error('haproxy is not installed (Debian: apt install haproxy); or leave it out with --paths direct')
}

const model = join(root, 'models', 'nativetok-128')
const { shape } = await readBundle(model)
const machine = await describeMachine(await usableCores(), model)
const other = options.against === undefined ? undefined : await checkOut(options.against)
const folder = await mkdtemp(join(tmpdir(), 'bench-'))
const sides: Side[] = []
try {
  sides.push(await start('this', { folder: root, commit: await commitOf(root) }))
  if (other) sides.push(await start('other', other))
  const { crops } = await makeCrops(folder, shape.imageSize)
  const { capacities, rows } = await measure(crops)
  const commits = Object.fromEntries(sides.map(({ name, commit }) => [name, commit]))
  const report = reportOf(rows)
  await mkdir(options.out, { recursive: true })
  const { rounds, seconds, seed } = options
  const json = { machine, commits, rounds, seconds, seed, capacities, rows }
  await writeFile(join(options.out, 'arrivals.json'), `${JSON.stringify(json, null, 2)}\n`)
  await writeFile(join(options.out, 'arrivals.md'), `${report}\n`)
  console.log(report)
} finally {
  for (const { proxy, service } of sides) {
    await proxy?.stop()
    await service.stop()
  }
  await rm(folder, { recursive: true })
  await other?.dispose()
}

async function start(name: string, { folder: checkout, commit }: Omit<Checkout, 'dispose'>): Promise<Side> {
  const service = await Service.start({ checkout, flags: ['--drain-delay', '0'] })
  if (!paths.includes('proxy')) return { name, commit, service }
  const listen = `127.0.0.1:${await freePort()}`
  const proxy = await Server.start({
    command: ['haproxy', '-f', join(import.meta.dirname, 'haproxy.cfg')],
    env: { NATIVETOK_LISTEN: listen, NATIVETOK_1: new URL(service.url).host },
    url: `http://${listen}`,
    started: isReady,
  })
  return { name, commit, service, proxy }
}

/** All rounds. Both sides get the same arrivals, one after the other; the first side changes every time. */
async function measure(photos: string): Promise<{ capacities: number[]; rows: Row[] }> {
  const files = await readImages(photos)
  const calls = (await Promise.all(IMAGES_PER_REQUEST.map((images) => encodeCalls(files, images)))).flat()
  const agent = keepAliveAgent()
  const capacities: number[] = []
  const rows: Row[] = []
  let turn = 0
  for (let round = 1; round <= options.rounds; round++) {
    const capacity = options.capacity ?? (await capacityOf(photos))
    capacities.push(capacity)
    console.error(`round ${round}/${options.rounds}: capacity ${capacity.toFixed(0)} images/s`)
    for (const share of options.shares) {
      for (const path of paths) {
        for (const side of turn++ % 2 === 0 ? sides : sides.toReversed()) {
          const rate = ((share / 100) * capacity) / MEAN_IMAGES
          const row = {
            round,
            side: side.name,
            path,
            share,
            ...(await measureOne(side, path, calls, rate, turn, agent)),
          }
          rows.push(row)
          console.error(
            `  ${share} % ${path} ${side.name}: p50 ${row.p50.toFixed(1)} p99 ${row.p99.toFixed(1)} ms, ` +
              `${row.cpuMsPerImage.toFixed(2)} ms of processor time per image, others used ${row.othersCores.toFixed(2)} cores`,
          )
        }
      }
    }
  }
  agent.destroy()
  return { capacities, rows }
}

/** Images per second under closed-loop load; the lower of the two where there are two, so that none is overloaded. */
async function capacityOf(photos: string): Promise<number> {
  const found: number[] = []
  for (const { service } of sides) {
    const load = { ...CAPACITY, url: service.url, photos, seconds: options.seconds / 2 }
    found.push((await runScript<LoadResult>('tools/clients.ts', load)).imagesPerSecond)
  }
  const lowest = Math.min(...found)
  if (lowest === 0) throw new Error('no request was answered while the capacity was measured: is the machine busy?')
  return lowest
}

async function measureOne(
  { service, proxy }: Side,
  path: Path,
  calls: Call[],
  rate: number,
  turn: number,
  agent: Agent,
) {
  const arrivals = poissonArrivals(calls, rate, options.seconds, new Random(options.seed, turn))
  await sleep(SETTLE_MS)
  const before = await cpuNow(service, proxy)
  const outcomes = await Promise.all(
    await sendWhenDue(path === 'proxy' ? (proxy as Server).url : service.url, arrivals, agent),
  )
  const after = await cpuNow(service, proxy)
  const cpu = after.service - before.service
  const answered = outcomes.filter(({ outcome }) => outcome === 200)
  const failures = outcomes.filter(({ outcome }) => outcome !== 200)
  const images = answered.reduce((sum, { call }) => sum + call.images, 0)
  const latencies = answered.map(({ due, done }) => done - due).sort((a, b) => a - b)
  const lateness = outcomes.map(({ due, sent }) => sent - due).sort((a, b) => a - b)
  const at = (percent: number) => (latencies.length === 0 ? Number.NaN : percentile(latencies, percent))
  return {
    ...{ requests: outcomes.length, images, p50: at(50), p95: at(95), p99: at(99) },
    errors: Object.fromEntries(
      [...Map.groupBy(failures, (of) => `${of.outcome}`)].map(([what, all]) => [what, all.length]),
    ),
    cpuMsPerImage: (cpu * 1000) / images,
    othersCores: Math.max(0, after.others - before.others) / (after.at - before.at),
    lateness: percentile(lateness, 99),
  }
}

/** Seconds: processor time of the service and of all processes outside this benchmark so far, and when that was. */
async function cpuNow(service: Service, proxy: Server | undefined) {
  const [own, proxied, all] = await Promise.all([
    cpuSeconds(service.pid),
    proxy === undefined ? 0 : cpuSeconds(proxy.pid),
    machineCpuSeconds(),
  ])
  const { user, system } = process.cpuUsage()
  return { service: own, others: all - own - proxied - (user + system) / 1e6, at: performance.now() / 1000 }
}

/** Medians, lowest and highest of the rounds; of two sides also of the ratios within a round. */
function reportOf(rows: Row[]): string {
  const figures = [
    ['p50', 'p50 ms'],
    ['p95', 'p95 ms'],
    ['p99', 'p99 ms'],
    ['cpuMsPerImage', 'CPU ms/image'],
    ['lateness', 'sent late, p99 ms'],
    ['othersCores', 'cores used by others'],
  ] as const
  const names = sides.map(({ name, commit }) => `${name} (${commit})`)
  const body = paths.flatMap((path) =>
    options.shares.flatMap((share) => {
      const of = sides.map(({ name }) =>
        rows.filter((row) => row.path === path && row.share === share && row.side === name),
      )
      const lines = of.map((own, i) => {
        const failed = own.flatMap(({ errors }) => Object.values(errors)).reduce((sum, count) => sum + count, 0)
        return [names[i] as string, ...figures.map(([name]) => spread(own.map((row) => row[name]))), `${failed}`]
      })
      const [mine = [], others] = of
      if (others) {
        const ratios = figures.map(([name]) => spread(mine.map((row, i) => (others[i] as Row)[name] / row[name])))
        lines.push(['**other over this**', ...ratios.slice(0, -2), '', '', ''])
      }
      return lines.map((line) => [path, `${share} %`, ...line])
    }),
  )
  return table(['path', 'share of capacity', 'checkout', ...figures.map(([, title]) => title), 'errors'], body)
}

function numbers(text: string): number[] {
  const list = text.split(',').map(Number)
  if (list.some((value) => !(value > 0))) throw new Error(`${text}: must be numbers above 0`)
  return list
}
