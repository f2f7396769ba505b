// Sends requests at a fixed rate, whether earlier ones were answered or not, and then single images until all is as it was
// before. A process of its own, run by the chapter `overload`; prints what it saw as JSON.
import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Call, encodeCalls } from '../tools/calls.ts'
import { readImages } from '../tools/images.ts'
import { percentile } from '../tools/statistics.ts'

/** What is printed. Times are milliseconds. */
export interface Arrivals {
  /** Of requests that were answered 200, from when they were due. */
  accepted: Latency
  /** Of requests that were answered 503. */
  refused: Latency
  /** Answers 503 without a Retry-After of at least a second. */
  withoutRetryAfter: number
  /** How often each other status, and each error code, came. */
  others: Record<string, number>
  /** Images answered a second, from a third of the time on. */
  imagesPerSecond: number
  /** 99th percentile of how long after they were due requests were sent: whether this process kept up. */
  lateness: number
  /** Median latency of a single image before. */
  idle: number
  /** From the last arrival to when a single image was sent that was answered 200. */
  untilAccepted: number
  /** From the last answer to when a single image was sent that was answered 200 within twice the idle latency. */
  untilIdle: number
}

export interface Latency {
  requests: number
  p50: number
  p99: number
  max: number
}

const IDLE_REQUESTS = 20
const RECOVERY_DEADLINE_MS = 60_000
const PROBE_EVERY_MS = 50

const { values: options } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:8080' },
    rate: { type: 'string', default: '10' },
    seconds: { type: 'string', default: '30' },
    batch: { type: 'string', default: '16' },
    photos: { type: 'string', default: '' },
  },
})
const photos = await readImages(options.photos)
const calls = await encodeCalls(photos, Number(options.batch))
const [single] = (await encodeCalls(photos, 1)) as [Call]
const agent = new Agent({ keepAlive: true })

const idles: number[] = []
for (let i = 0; i < IDLE_REQUESTS; i++) idles.push((await timed(single)).milliseconds)
const idle = percentile(
  idles.toSorted((a, b) => a - b),
  50,
)
const { untilAccepted, ...load } = await arrive(Number(options.rate), Number(options.seconds))
const untilIdle = await recovered((status, milliseconds) => status === 200 && milliseconds <= 2 * idle)
agent.destroy()
console.log(JSON.stringify({ ...load, idle, untilAccepted, untilIdle } satisfies Arrivals, null, 2))

async function arrive(rate: number, seconds: number) {
  const accepted: number[] = []
  const refused: number[] = []
  const lateness: number[] = []
  const others: Record<string, number> = {}
  let withoutRetryAfter = 0
  let images = 0
  const start = performance.now()
  const counted = { from: start + (seconds * 1000) / 3, to: start + seconds * 1000 }

  async function one(call: Call, due: number): Promise<void> {
    const sent = performance.now()
    lateness.push(sent - due)
    const { outcome, retryAfter } = await timed(call)
    const now = performance.now()
    if (outcome === 200) {
      accepted.push(now - due)
      if (now >= counted.from && now < counted.to) images += call.images
    } else if (outcome === 503) {
      // The service could not answer before it was asked.
      refused.push(now - sent)
      if (!(retryAfter >= 1)) withoutRetryAfter++
    } else others[outcome] = (others[outcome] ?? 0) + 1
  }

  const under: Promise<void>[] = []
  for (let i = 0; i < rate * seconds; i++) {
    const due = start + (i / rate) * 1000
    const wait = due - performance.now()
    if (wait > 0) await sleep(wait)
    under.push(one(calls[i % calls.length] as Call, due))
  }
  const untilAccepted = await recovered((outcome) => outcome === 200)
  await Promise.all(under)
  return {
    ...{ accepted: latencyOf(accepted), refused: latencyOf(refused), withoutRetryAfter, others },
    imagesPerSecond: (images * 1000) / (counted.to - counted.from),
    lateness: percentile(
      lateness.toSorted((a, b) => a - b),
      99,
    ),
    untilAccepted,
  }
}

/** Milliseconds until a single image is sent whose answer is as wanted. */
async function recovered(wanted: (outcome: number | string, milliseconds: number) => boolean): Promise<number> {
  const start = performance.now()
  for (;;) {
    const sent = performance.now() - start
    const { outcome, milliseconds } = await timed(single)
    if (wanted(outcome, milliseconds) || sent > RECOVERY_DEADLINE_MS) return sent
    await sleep(PROBE_EVERY_MS)
  }
}

/** Sends a call, reads its answer to the end, and says what it was or which error came instead. */
function timed(call: Call): Promise<{ outcome: number | string; retryAfter: number; milliseconds: number }> {
  const start = performance.now()
  return new Promise((resolve) => {
    const settle = (outcome: number | string, retryAfter = Number.NaN) =>
      resolve({ outcome, retryAfter, milliseconds: performance.now() - start })
    const failed = (error: NodeJS.ErrnoException) => settle(error.code ?? error.message)
    const headers = { 'content-type': call.type, 'content-length': call.body.length }
    request(new URL(call.path, options.url), { method: 'POST', headers, agent }, (response) => {
      response.on('end', () => settle(response.statusCode ?? 0, Number(response.headers['retry-after'])))
      response.on('error', failed).resume()
    })
      .on('error', failed)
      .end(call.body)
  })
}

function latencyOf(milliseconds: number[]): Latency {
  const sorted = milliseconds.toSorted((a, b) => a - b)
  const at = (percent: number) => (sorted.length === 0 ? 0 : percentile(sorted, percent))
  return { requests: sorted.length, p50: at(50), p99: at(99), max: at(100) }
}
