/**
 * Works on several items at a time and yields the results in the order of the items. It takes items while the consumer is busy with
 * a result, until `limit` of them are being worked on or wait for their turn.
 *
 * @throws what `work` or `items` throws, once everything before it has been yielded
 */
export async function* inOrder<T, R>(
  items: AsyncIterable<T>,
  limit: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const results: Promise<R>[] = []
  let changed = Promise.withResolvers<void>()
  let left = false
  const notify = () => {
    changed.resolve()
    changed = Promise.withResolvers()
  }
  const feed = async () => {
    for await (const item of items) {
      const result = work(item)
      // Whoever awaits its turn sees the error; without this, the process would end before.
      result.catch(() => {})
      results.push(result)
      notify()
      while (results.length >= limit && !left) await changed.promise
      if (left) return
    }
  }
  let ended = false
  const feeding = feed().finally(() => {
    ended = true
    notify()
  })
  feeding.catch(() => {})
  try {
    for (;;) {
      const [next] = results
      if (next === undefined) {
        if (ended) return await feeding
        await changed.promise
        continue
      }
      const result = await next
      results.shift()
      notify()
      yield result
    }
  } finally {
    left = true
    notify()
  }
}
