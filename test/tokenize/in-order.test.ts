import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { inOrder } from '../../src/tokenize/in-order.ts'

async function* numbers(count: number, failure?: Error): AsyncGenerator<number> {
  for (let i = 0; i < count; i++) yield i
  if (failure) throw failure
}

test('results come in the order of the items, with as many at work as allowed and no more', async () => {
  let [atWork, most] = [0, 0]
  const work = async (n: number) => {
    most = Math.max(most, ++atWork)
    await sleep(Math.random() * 5)
    atWork--
    return n * n
  }
  const results: number[] = []
  for await (const result of inOrder(numbers(200), 7, work)) results.push(result)
  assert.deepEqual(
    results,
    Array.from({ length: 200 }, (_, n) => n * n),
  )
  assert.equal(most, 7)
})

test('while the consumer is busy, work goes on up to the limit', async () => {
  let begun = 0
  const work = async (n: number) => {
    begun++
    return n
  }
  for await (const _ of inOrder(numbers(50), 5, work)) {
    await sleep(20)
    break
  }
  // The one that was taken, and the five that may wait.
  assert.equal(begun, 6)
  await sleep(20)
  assert.equal(begun, 6)
})

test('an error comes after everything before it', async () => {
  const seen: number[] = []
  const take = async (results: AsyncIterable<number>) => {
    for await (const result of results) seen.push(result)
  }
  const work = async (n: number) => {
    await sleep(5 - n)
    if (n === 3) throw new Error('three')
    return n
  }
  await assert.rejects(take(inOrder(numbers(9), 4, work)), /three/)
  assert.deepEqual(seen.splice(0), [0, 1, 2])
  await assert.rejects(take(inOrder(numbers(2, new Error('no more')), 4, work)), /no more/)
  assert.deepEqual(seen, [0, 1])
})
