import { setTimeout as sleep } from 'node:timers/promises'
import { Pair } from './pair.ts'
import type { Finding, Scope } from './promise.ts'
import { inWords, Traffic } from './traffic.ts'

const CLIENTS = 16

/** Two instances behind HAProxy are restarted one after the other under load. */
export async function* rollingRestart({ long }: Scope): AsyncGenerator<Finding> {
  if (!Pair.possible) {
    console.error('rolling-restart: haproxy is not installed, so this was skipped')
    return
  }
  const pair = await Pair.start()
  try {
    const traffic = await Traffic.begin(pair.url, { clients: CLIENTS, batch: 1 })
    const exits: unknown[] = []
    for (let round = 0; round < (long ? 5 : 1); round++) {
      for (const which of [0, 1] as const) {
        exits.push((await pair.end(which)).exit)
        await pair.add(which)
        // As in a rollout, the new instance must be in use before the next one is stopped.
        await sleep(3000)
      }
    }
    const tally = await traffic.stop()
    yield {
      promise: `behind HAProxy, ${exits.length} restarts of one of two instances fail no request of ${CLIENTS} clients`,
      figure: `${inWords(tally)}; the instances ended with ${exits.join(', ')}`,
      kept: traffic.failed === 0 && tally.right > 0 && exits.every((code) => code === 0),
    }
  } finally {
    await pair.stop()
  }
}
