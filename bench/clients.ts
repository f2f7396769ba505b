// Load from N keep-alive clients, each sending its next request when it has the answer to the last: `--help` says how.
import { Agent } from 'node:http'
import { createHistogram } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Call, decodeCalls, encodeCalls, send } from './calls.ts'
import { fixtures, readImages } from './images.ts'
import { type Observation, observe } from './observe.ts'

const usage = `npm run bench:clients -- [options]
  --url <url>         server (default http://127.0.0.1:8080); NATIVETOK_API_KEY is sent where set
  --route <name>      encode, decode or mix, which sends both in turn (default encode)
  --clients <n>       connections, one request at a time on each (default 32)
  --seconds <s>       how long to measure (default 20)
  --images <n>        stop sending after so many images, if that is sooner
  --batch <n>         images or sequences a request (default 1)
  --length <n>        tokens an image (default: all)
  --pause <ms>        time between an answer and the next request, as of a client that far away (default 0)
  --warm-up <s>       seconds of the same load beforehand that do not count (default 2)
  --photos <folder>   .jpg, .png and .webp files to send (default test/fixtures/photos)
  --pid <n>           the server's process, to report the processor time and memory of it and its descendants`

/** What is printed. */
export interface LoadResult extends Omit<Observation, 'cpuSeconds'> {
  route: string
  clients: number
  batch: number
  seconds: number
  requests: number
  images: number
  imagesPerSecond: number
  latencyMs: { p50: number | null; p95: number | null; p99: number | null; max: number | null }
  /** How often each status but 200, and each error code, came. */
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
    images: { type: 'string', default: 'Infinity' },
    batch: { type: 'string', default: '1' },
    length: { type: 'string' },
    pause: { type: 'string', default: '0' },
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
const pause = number('pause')
const length = options.length === undefined ? undefined : number('length')

const calls = await callsOf(options.route)
if (number('warm-up') > 0) await load(number('warm-up'), Number.POSITIVE_INFINITY)
const end = await observe(options.url, options.pid === undefined ? undefined : number('pid'))
const result = await load(number('seconds'), number('images'))
const { cpuSeconds, ...seen } = await end()
const cpuMsPerImage = cpuSeconds === null || result.images === 0 ? null : (cpuSeconds * 1000) / result.images
const report: LoadResult = { route: options.route, clients, batch, ...result, cpuMsPerImage, ...seen }
console.log(JSON.stringify(report, null, 2))
if (result.images === 0) process.exitCode = 1

async function callsOf(route: string): Promise<Call[]> {
  const encodes = await encodeCalls(await readImages(options.photos), batch, length)
  if (route === 'encode') return encodes
  const decodes = await decodeCalls(options.url, encodes)
  if (route === 'decode') return decodes
  if (route === 'mix') return encodes.flatMap((encode, i) => [encode, decodes[i] as Call])
  throw new Error(`--route ${route}: it is encode, decode or mix`)
}

/** Sends `calls` in turn from all clients for `seconds`, or until `images` images were sent, and says how it went. */
async function load(seconds: number, images: number) {
  const latency = createHistogram()
  const errors: Record<string, number> = {}
  const start = performance.now()
  const end = start + seconds * 1000
  let sent = 0
  let done = 0
  let next = 0

  async function client(): Promise<void> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (performance.now() < end && sent < images) {
      const call = calls[next++ % calls.length] as Call
      sent += call.images
      const began = performance.now()
      const error = await send(options.url, call, agent).then(
        ({ status }) => (status === 200 ? undefined : String(status)),
        (failure: NodeJS.ErrnoException) => failure.code ?? failure.message,
      )
      if (error === undefined) {
        done += call.images
        latency.record(Math.max(1, Math.round((performance.now() - began) * 1000)))
      } else {
        errors[error] = (errors[error] ?? 0) + 1
      }
      if (pause > 0) await sleep(pause)
    }
    agent.destroy()
  }
  await Promise.all(Array.from({ length: clients }, client))

  const elapsed = (performance.now() - start) / 1000
  const milliseconds = (percentile: number) => (latency.count ? latency.percentile(percentile) / 1000 : null)
  return {
    seconds: Number(elapsed.toFixed(2)),
    requests: latency.count,
    images: done,
    imagesPerSecond: Number((done / elapsed).toFixed(1)),
    latencyMs: { p50: milliseconds(50), p95: milliseconds(95), p99: milliseconds(99), max: milliseconds(100) },
    errors,
  }
}

function number(name: 'clients' | 'seconds' | 'images' | 'batch' | 'length' | 'pause' | 'warm-up' | 'pid'): number {
  const value = Number(options[name])
  if (Number.isNaN(value) || value < 0) throw new Error(`--${name} ${options[name]}: it must be a number`)
  return value
}
