// Signals count from when this module is loaded, so the process must import it before what takes long to load. A second
// signal of a kind ends the process as it would any other.
import { StoppedError } from './errors.ts'

const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => stop.abort(new StoppedError('stopped; the same command goes on from here')))
}

/** Aborted once the process was asked to stop. */
export const stopped: AbortSignal = stop.signal

/**
 * What some work results in. It is left behind, not ended, when the process is asked to stop.
 * @throws StoppedError
 */
export function untilStopped<T>(work: Promise<T>): Promise<T> {
  const end = new Promise<never>((_, reject) => {
    const leave = () => reject(stopped.reason)
    if (stopped.aborted) leave()
    else stopped.addEventListener('abort', leave, { once: true })
  })
  return Promise.race([work, end])
}
