/**
 * Works on things as they come, at most `atOnce` at a time, and yields results in their order. An error is thrown when its
 * turn has come, so that of several the first in the list is heard of. Whatever ends it, what is under way is aborted.
 */
export async function* inOrder<T, R>(
  things: AsyncIterator<T>,
  work: (thing: T, signal: AbortSignal) => Promise<R>,
  atOnce: number,
  signal?: AbortSignal,
): AsyncGenerator<R> {
  const end = new AbortController()
  const either = signal ? AbortSignal.any([signal, end.signal]) : end.signal
  const underWay: Promise<R>[] = []
  let failure: { error: unknown } | undefined
  let more = true
  try {
    while (true) {
      while (more && underWay.length < atOnce) {
        signal?.throwIfAborted()
        try {
          const next = await things.next()
          if (next.done) more = false
          else underWay.push(handled(work(next.value, either)))
        } catch (error) {
          more = false
          failure = { error }
        }
      }
      const first = underWay.shift()
      if (!first) break
      yield await first
    }
    if (failure) throw failure.error
  } finally {
    end.abort()
    await things.return?.()
    await Promise.allSettled(underWay)
  }
}

/** A rejection before its turn must not count as unhandled. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}
