import { setTimeout as sleep } from 'node:timers/promises'

const ASK_EVERY_MS = 20

/** Seconds until a condition holds; infinite when it does not hold within `limit` seconds. */
export async function secondsUntil(condition: () => boolean | Promise<boolean>, limit: number): Promise<number> {
  const start = performance.now()
  for (;;) {
    const holds = await condition()
    const seconds = (performance.now() - start) / 1000
    if (holds) return seconds
    if (seconds > limit) return Number.POSITIVE_INFINITY
    await sleep(ASK_EVERY_MS)
  }
}

/** Waits until a condition holds. @throws Error when it does not hold within so many seconds */
export async function until(condition: () => boolean | Promise<boolean>, seconds: number): Promise<void> {
  if ((await secondsUntil(condition, seconds)) > seconds) throw new Error(`not true after ${seconds} s: ${condition}`)
}
