// Load from N keep-alive clients, each sending its next request after the answer to the last one; see `--help`.
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Call, decodeCalls, encodeCalls } from './calls.ts'
import { fixtures, readImages } from './images.ts'
import { type Answered, Load } from './load.ts'
import { type Observation, observe } from './observe.ts'
import { percentile } from './statistics.ts'

const usage = `npm run bench:clients -- [options]
  --url <url>         server (default http://127.0.0.1:8080); NATIVETOK_API_KEY is sent if it is set
  --route <name>      encode, decode or mix, which sends both in turn (default encode)
  --clients <n>       connections, one request at a time on each (default 32)
  --seconds <s>       how long to measure (default 20)
  --images <n>        stop after this many images if that is sooner; there is no warm-up then
  --batch <n>         images or sequences per request (default 1)
  --length <n>        tokens per image (default: all)
  --warm-up <s>       seconds of the same load before the measurement (default 2)
  --photos <folder>   .jpg, .png and .webp files to send (default test/fixtures/photos)
  --pid <n>           the server's process, to report the processor time and memory of its process tree`

/** The printed result. */
export interface LoadResult extends Omit<Observation, 'cpuSeconds'> {
  route: string
  clients: number
  batch: number
  seconds: number
  requests: number
  images: number
  imagesPerSecond: number
  latencyMs: { p50: number | null; p95: number | null; p99: number | null; max: number | null }
  /** The number of each status other than 200 and of each error. */
  errors: Record<string, number>
  /** Milliseconds of the server's processor time. */
  cpuMsPerImage: number | null
}

const { values: options } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:8080' },
    route: { type: 'string', default: 'encode' },
    clients: { type: 'string', default: '32' },
    seconds: { type: 'string', default: '20' },
    images: { type: 'string' },
    batch: { type: 'string', default: '1' },
    length: { type: 'string' },
    'warm-up': { type: 'string', default: '2' },
    photos: { type: 'string', default: fixtures },
    pid: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}
const clients = number('clients')
const batch = number('batch')
const length = options.length === undefined ? undefined : number('length')
const calls = await callsOf(options.route)

const { seconds, answered, seen } = await measure()
const images = answered.requests * batch
const { cpuSeconds, ...others } = seen
const report: LoadResult = {
  ...{ route: options.route, clients, batch },
  seconds: Number(seconds.toFixed(2)),
  requests: answered.requests,
  images,
  imagesPerSecond: Number((images / seconds).toFixed(1)),
  latencyMs: latencyOf(answered.latencies),
  errors: answered.errors,
  cpuMsPerImage: cpuSeconds === null || images === 0 ? null : (cpuSeconds * 1000) / images,
  ...others,
}
console.log(JSON.stringify(report, null, 2))
if (images === 0) process.exitCode = 1

/**
 * Loads the server and counts answers and processor time over the same span. The load is as heavy before the span and at
 * its end as within it, so what the span cuts off at its end, it has got from before its beginning.
 */
async function measure(): Promise<{ seconds: number; answered: Answered; seen: Observation }> {
  const requests = options.images === undefined ? undefined : Math.ceil(number('images') / batch)
  const start = () => new Load(options.url, calls, { clients, ...(requests !== undefined && { requests }) })
  const warmUp = requests === undefined ? number('warm-up') : 0
  let load = warmUp > 0 ? start() : undefined
  if (warmUp > 0) await sleep(warmUp * 1000)
  const end = await observe(options.url, options.pid === undefined ? undefined : number('pid'))
  load ??= start()
  load.begin()
  const began = performance.now()
  const span = number('seconds') * 1000
  await Promise.race([load.done, ...(Number.isFinite(span) ? [sleep(span, undefined, { ref: false })] : [])])
  const seconds = (performance.now() - began) / 1000
  const answered = load.end()
  const seen = await end()
  await load.stop()
  return { seconds, answered, seen }
}

async function callsOf(route: string): Promise<Call[]> {
  const encodes = await encodeCalls(await readImages(options.photos), batch, length)
  if (route === 'encode') return encodes
  const decodes = await decodeCalls(options.url, encodes)
  if (route === 'decode') return decodes
  if (route === 'mix') return encodes.flatMap((encode, i) => [encode, decodes[i] as Call])
  throw new Error(`--route ${route}: it must be encode, decode or mix`)
}

function latencyOf(sorted: readonly number[]): LoadResult['latencyMs'] {
  const at = (percent: number) => (sorted.length === 0 ? null : Number(percentile(sorted, percent).toFixed(3)))
  return { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
}

function number(name: 'clients' | 'seconds' | 'images' | 'batch' | 'length' | 'warm-up' | 'pid'): number {
  const value = Number(options[name])
  if (Number.isNaN(value) || value < 0) throw new Error(`--${name} ${options[name]}: it must be a number of 0 or more`)
  return value
}
