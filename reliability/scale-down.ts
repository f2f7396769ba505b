import { setTimeout as sleep } from 'node:timers/promises'
import { Pair } from './pair.ts'
import type { Finding, Scope } from './promise.ts'
import { inWords, Traffic } from './traffic.ts'

const CLIENTS = 16
/** How long one instance serves alone, and then both again. */
const BETWEEN_MS = 3000
/** What Kubernetes waits before it kills a pod, with the service's default settings: `terminationGracePeriodSeconds`. */
const GRACE_SECONDS = 45

/** One of two instances behind HAProxy is taken away under load, as an autoscaler does, and later another is added. */
export async function* scaleDown({ long }: Scope): AsyncGenerator<Finding> {
  if (!Pair.possible) {
    console.error('scale-down: haproxy is not installed, so this was skipped')
    return
  }
  const pair = await Pair.start()
  try {
    const traffic = await Traffic.begin(pair.url, { clients: CLIENTS, batch: 1 })
    const ends: Awaited<ReturnType<Pair['end']>>[] = []
    const shares: number[] = []
    for (let round = 0; round < (long ? 5 : 1); round++) {
      const which = round % 2 === 0 ? 1 : 0
      ends.push(await pair.end(which))
      await sleep(BETWEEN_MS)
      const added = await pair.add(which)
      const before = traffic.tally.right
      await sleep(BETWEEN_MS)
      const answered = await added.metric('nativetok_requests_total', { route: '/encode', status: '200' })
      shares.push(answered / Math.max(1, traffic.tally.right - before))
    }
    const tally = await traffic.stop()
    const slowest = Math.max(...ends.map(({ seconds }) => seconds))
    yield {
      promise: `behind HAProxy, taking away one of two instances ${ends.length === 1 ? 'once' : `${ends.length} times`} fails no request of ${CLIENTS} clients`,
      figure: `${inWords(tally)}; the instances ended with ${ends.map(({ exit }) => exit).join(', ')} within ${slowest.toFixed(1)} s`,
      kept: traffic.failed === 0 && tally.right > 0 && ends.every(({ exit }) => exit === 0) && slowest < GRACE_SECONDS,
    }
    const least = Math.min(...shares)
    yield {
      promise: 'an instance that is added gets its share of the requests within 3 s',
      figure: `at least ${(100 * least).toFixed(0)} % of them`,
      kept: least > 0.2,
    }
  } finally {
    await pair.stop()
  }
}
