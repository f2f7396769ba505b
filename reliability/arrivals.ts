// Sends requests at a fixed rate, whether or not earlier ones were answered, and then single images until the service is as
// it was before. A process of its own, which the chapter `overload` runs; prints what it saw as JSON.
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { answerTo, evenArrivals, keepAliveAgent, sendWhenDue } from '../tools/arrivals.ts'
import { type Call, encodeCalls } from '../tools/calls.ts'
import { readImages } from '../tools/images.ts'
import { percentile } from '../tools/statistics.ts'

/** The printed result. Times are in milliseconds. */
export interface Arrivals {
  /** Latencies of requests answered with 200, from when they were due. */
  accepted: Latency
  /** Latencies of requests answered with 503. */
  refused: Latency
  /** Answers 503 without a Retry-After of at least a second. */
  withoutRetryAfter: number
  /** The number of each other status and of each error code. */
  others: Record<string, number>
  /** Images answered per second, from a third of the time on. */
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
const agent = keepAliveAgent()

const idles: number[] = []
for (let i = 0; i < IDLE_REQUESTS; i++) idles.push((await timed(single)).milliseconds)
const idle = percentile(
  idles.toSorted((a, b) => a - b),
  50,
)
const { untilAccepted, ...seen } = await load(Number(options.rate), Number(options.seconds))
const untilIdle = await recovered((status, milliseconds) => status === 200 && milliseconds <= 2 * idle)
agent.destroy()
console.log(JSON.stringify({ ...seen, idle, untilAccepted, untilIdle } satisfies Arrivals, null, 2))

async function load(rate: number, seconds: number) {
  const under = await sendWhenDue(options.url, evenArrivals(calls, rate, seconds), agent)
  const untilAccepted = await recovered((outcome) => outcome === 200)
  const outcomes = await Promise.all(under)
  const accepted = outcomes.filter(({ outcome }) => outcome === 200)
  const refused = outcomes.filter(({ outcome }) => outcome === 503)
  const others = Map.groupBy(
    outcomes.filter(({ outcome }) => outcome !== 200 && outcome !== 503),
    ({ outcome }) => `${outcome}`,
  )
  const counted = { from: (seconds * 1000) / 3, to: seconds * 1000 }
  const images = accepted
    .filter(({ done }) => done >= counted.from && done < counted.to)
    .reduce((sum, { call }) => sum + call.images, 0)
  return {
    accepted: latencyOf(accepted.map(({ due, done }) => done - due)),
    // No answer can come before its request.
    refused: latencyOf(refused.map(({ sent, done }) => done - sent)),
    withoutRetryAfter: refused.filter(({ retryAfter }) => !(retryAfter >= 1)).length,
    others: Object.fromEntries([...others].map(([outcome, all]) => [outcome, all.length])),
    imagesPerSecond: (images * 1000) / (counted.to - counted.from),
    lateness: percentile(
      outcomes.map(({ due, sent }) => sent - due).sort((a, b) => a - b),
      99,
    ),
    untilAccepted,
  }
}

/** Milliseconds until a single image is sent whose answer is as required. */
async function recovered(wanted: (outcome: number | string, milliseconds: number) => boolean): Promise<number> {
  const start = performance.now()
  for (;;) {
    const sent = performance.now() - start
    const { outcome, milliseconds } = await timed(single)
    if (wanted(outcome, milliseconds) || sent > RECOVERY_DEADLINE_MS) return sent
    await sleep(PROBE_EVERY_MS)
  }
}

/** Sends a call and measures the time. */
async function timed(call: Call) {
  const start = performance.now()
  return { ...(await answerTo(options.url, call, agent)), milliseconds: performance.now() - start }
}

function latencyOf(milliseconds: number[]): Latency {
  const sorted = milliseconds.toSorted((a, b) => a - b)
  const at = (percent: number) => (sorted.length === 0 ? 0 : percentile(sorted, percent))
  return { requests: sorted.length, p50: at(50), p99: at(99), max: at(100) }
}
