import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Batcher } from '../../src/inference/batcher.ts'
import { image, ManualEngine, settled, shape } from './manual-engine.ts'

/** How long batches take, in milliseconds; an engine then waits for at most half of it. */
const BATCH_MS = 400

/** A batcher with one engine that takes this long for each batch. */
function slowBatcher(maxBatch = 16) {
  const batcher = new Batcher(shape, maxBatch)
  const engine = new ManualEngine()
  batcher.add(engine)
  const finish = async () => {
    await sleep(BATCH_MS)
    engine.last.succeed()
    await settled()
  }
  return { batcher, engine, finish }
}

test('an engine waits a moment for images that are being prepared, and no longer', async () => {
  const { batcher, engine, finish } = slowBatcher()
  const answers = [batcher.encode(image(1), 4)]
  const prepared = Promise.withResolvers<Uint8Array>()
  const late = Promise.withResolvers<Uint8Array>()
  answers.push(batcher.encode(image(2), 4), batcher.encode(prepared.promise, 4), batcher.encode(late.promise, 4))
  await finish()
  assert.equal(engine.calls.length, 1)
  prepared.resolve(image(3))
  await sleep(BATCH_MS / 3)
  assert.equal(engine.calls.length, 1)
  await sleep(BATCH_MS / 3)
  assert.deepEqual(engine.last.ids, [2, 3])

  late.resolve(image(4))
  await finish()
  assert.deepEqual(engine.last.ids, [4])
  engine.last.succeed()
  assert.deepEqual(
    (await Promise.all(answers)).map(({ tokens }) => tokens[0]),
    [1, 2, 3, 4],
  )
})

test('waiting sequences are decoded at once, even while images are being prepared', async () => {
  const { batcher, engine, finish } = slowBatcher()
  const first = batcher.encode(image(1), 4)
  const second = batcher.encode(image(2), 4)
  const prepared = Promise.withResolvers<Uint8Array>()
  const third = batcher.encode(prepared.promise, 4)
  const decoded = batcher.decode([7])
  await finish()
  assert.equal(engine.last.kind, 'decode')
  prepared.resolve(image(3))
  engine.last.succeed()
  await settled()
  engine.last.succeed()
  await Promise.all([first, second, third, decoded])
})

test('an image that cannot be prepared rejects with the reason and does not delay others', async () => {
  const { batcher, engine, finish } = slowBatcher()
  const first = batcher.encode(image(1), 4)
  const prepared = Promise.withResolvers<Uint8Array>()
  const failing = batcher.encode(prepared.promise, 4)
  const second = batcher.encode(image(2), 4)
  let drained = false
  const draining = batcher.drained().then(() => {
    drained = true
  })
  await finish()
  await first
  prepared.reject(new Error('no image'))
  await assert.rejects(failing, /no image/)
  await sleep(10)
  assert.deepEqual(engine.last.ids, [2])
  assert.equal(drained, false)
  engine.last.succeed()
  await second
  await draining
})
