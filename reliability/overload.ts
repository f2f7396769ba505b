import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LoadResult } from '../tools/clients.ts'
import { makeCrops } from '../tools/images.ts'
import { runScript } from '../tools/script.ts'
import { Service } from '../tools/service.ts'
import type { Arrivals } from './arrivals.ts'
import type { Finding, Scope } from './promise.ts'

const TIMES_CAPACITY = 4
/** Images per request: a few connections then carry the load, so that sending it takes little processor time. */
const BATCH = 16
/** Enough for full batches on all engines; each has one request open. */
const CLIENTS_AT_PEAK = 12
const DEADLINE_MS = 30_000
const SAMPLE_EVERY_MS = 2000

/** Four times as many images arrive as the service can process: it does what it can and refuses the rest at once. */
export async function* overload({ long }: Scope): AsyncGenerator<Finding> {
  const seconds = long ? 600 : 45
  const folder = await mkdtemp(join(tmpdir(), 'reliability-'))
  const service = await Service.start()
  try {
    const { crops: photos } = await makeCrops(folder, 128)
    const common = { url: service.url, batch: BATCH, photos }
    const peak = await runScript<LoadResult>('tools/clients.ts', {
      ...common,
      ...{ clients: CLIENTS_AT_PEAK, seconds: long ? 30 : 10, 'warm-up': 3 },
    })
    const memory: number[] = []
    const sampling = setInterval(async () => memory.push(await service.memoryMiB()), SAMPLE_EVERY_MS)
    const rate = (TIMES_CAPACITY * peak.imagesPerSecond) / BATCH
    const seen = await runScript<Arrivals>('reliability/arrivals.ts', { ...common, rate, seconds })
    clearInterval(sampling)
    yield* findings(seen, peak.imagesPerSecond, memory.slice(0, Math.floor((seconds * 1000) / SAMPLE_EVERY_MS)))
  } finally {
    await service.stop()
    await rm(folder, { recursive: true })
  }
}

function* findings(seen: Arrivals, peak: number, memory: number[]): Generator<Finding> {
  const { accepted, refused } = seen
  const others = Object.entries(seen.others).map(([what, count]) => `${count} times ${what}`)
  const at = `at ${TIMES_CAPACITY} times capacity`
  yield {
    promise: `${at}, every request is answered 200 within the deadline or 503`,
    figure: `${accepted.requests} answered 200, p99 ${ms(accepted.p99)}, max ${ms(accepted.max)}; ${refused.requests} answered 503; ${others.join(', ') || 'nothing else'}; sent at most ${ms(seen.lateness)} late (p99)`,
    kept: accepted.requests > 0 && others.length === 0 && accepted.max < DEADLINE_MS,
  }
  yield {
    promise: `${at}, refusals come at once and say when to retry`,
    figure: `p50 ${ms(refused.p50)}, p99 ${ms(refused.p99)}; ${seen.withoutRetryAfter} without Retry-After`,
    kept: refused.requests > 0 && refused.p99 < 1000 && seen.withoutRetryAfter === 0,
  }
  const ratio = seen.imagesPerSecond / peak
  yield {
    promise: `${at}, throughput is as high as at its peak`,
    figure: `${seen.imagesPerSecond.toFixed(0)} of ${peak.toFixed(0)} images/s (${ratio.toFixed(2)})`,
    kept: ratio >= 0.95,
  }
  const third = Math.floor(memory.length / 3)
  const [before, after] = [Math.max(...memory.slice(third, 2 * third)), Math.max(...memory.slice(2 * third))]
  yield {
    promise: `${at}, memory does not grow`,
    figure: `${before.toFixed(0)} MiB at most in the second third of the time, ${after.toFixed(0)} MiB in the last`,
    kept: after <= 1.1 * before,
  }
  yield {
    promise: 'when the load ends, requests are accepted again within a second',
    figure: `after ${ms(seen.untilAccepted)}`,
    kept: seen.untilAccepted <= 1000,
  }
  yield {
    promise:
      'within a second after the accepted requests are done, a single image takes at most twice its idle latency',
    figure: `after ${ms(seen.untilIdle)}; idle ${ms(seen.idle)}`,
    kept: seen.untilIdle <= 1000,
  }
}

function ms(milliseconds: number): string {
  return milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`
}
