import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Batcher } from '../../src/inference/batcher.ts'
import { image, ManualEngine, settled, shape } from './manual-engine.ts'

/** How long batches take, in milliseconds: an engine then waits for 200, and for clients that are back within 50. */
const BATCH_MS = 400
const FAR_MS = 150

/** A batcher whose one engine takes so long for each batch. */
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

/** Clients that ask for the image of their number again and again, each so many milliseconds after its answer. */
function askingAgain(batcher: Batcher, engine: ManualEngine, pauses: number[]) {
  const clients = pauses.map((pause, id) => ({ id, pause, gone: false }))
  const asking = clients.map(async (client) => {
    while (!client.gone) {
      await batcher.encode(image(client.id), 4, undefined, client)
      await sleep(client.pause)
    }
  })
  /** Answers what the clients have asked for; they ask for no more. */
  const end = async () => {
    for (const client of clients) client.gone = true
    const over = Promise.all(asking).then(() => true)
    while (!(await Promise.race([over, sleep(10, false)]))) engine.last.succeed()
  }
  return { clients, end }
}

test('an engine waits a moment for clients that come back as soon as they are answered', async () => {
  const { batcher, engine, finish } = slowBatcher()
  const { end } = askingAgain(batcher, engine, [0, 0, 0])
  assert.deepEqual(engine.last.ids, [0])
  // Once all of them have come back, the engine knows whom to wait for.
  for (let batch = 0; batch < 4; batch++) {
    await finish()
    await sleep(20)
  }
  assert.deepEqual(engine.last.ids.toSorted(), [0, 1, 2])
  await finish()
  const calls = engine.calls.length
  await sleep(20)
  assert.deepEqual(engine.last.ids.toSorted(), [0, 1, 2])
  assert.equal(engine.calls.length, calls + 1)
  await end()
})

test('an engine goes on without a client that stays away', async () => {
  const { batcher, engine, finish } = slowBatcher()
  const { clients, end } = askingAgain(batcher, engine, [0, 0, 0])
  for (let batch = 0; batch < 4; batch++) {
    await finish()
    await sleep(20)
  }
  const [leaver] = clients
  assert.ok(leaver)
  leaver.gone = true
  const calls = engine.calls.length
  await finish()
  await sleep(10)
  assert.equal(engine.calls.length, calls)
  await sleep(BATCH_MS / 4)
  assert.deepEqual(engine.last.ids.toSorted(), [1, 2])
  await end()
})

test('an engine does not wait for clients that take their time', async () => {
  const { batcher, engine, finish } = slowBatcher()
  const { end } = askingAgain(batcher, engine, [FAR_MS, FAR_MS, FAR_MS, FAR_MS])
  for (let batch = 0; batch < 4; batch++) {
    await finish()
    await sleep(FAR_MS + 20)
  }
  const calls = engine.calls.length
  await finish()
  assert.equal(engine.calls.length, calls + 1)
  await end()
})

test('an engine that can fill its batch waits for no more clients', async () => {
  const { batcher, engine, finish } = slowBatcher(2)
  const { end } = askingAgain(batcher, engine, [0, 0, 0])
  for (let batch = 0; batch < 4; batch++) {
    await finish()
    await sleep(20)
  }
  const calls = engine.calls.length
  await finish()
  await sleep(10)
  assert.equal(engine.calls.length, calls + 1)
  assert.equal(engine.last.ids.length, 2)
  await end()
})

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

test('sequences that wait are decoded at once, whatever images are expected', async () => {
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

test('an image that cannot be prepared rejects with the reason, and keeps nothing waiting', async () => {
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
