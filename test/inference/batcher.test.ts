import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Batcher } from '../../src/inference/batcher.ts'
import { EngineKilledError } from '../../src/inference/errors.ts'
import { EngineFailedError } from '../../src/inference/inference.ts'
import { image, ManualEngine, settled, shape } from './manual-engine.ts'

function batcherWithEngine(maxBatch = 8) {
  const batcher = new Batcher(shape, maxBatch)
  const engine = new ManualEngine()
  batcher.add(engine)
  return { batcher, engine }
}

test('an idle engine gets the first image at once, then what has queued meanwhile, up to the limit', async () => {
  const { batcher, engine } = batcherWithEngine(3)
  const answers = [1, 2, 3, 4, 5].map((id) => batcher.encode(image(id), 4))
  assert.deepEqual(engine.last.ids, [1])
  engine.last.succeed()
  await settled()
  assert.deepEqual(engine.last.ids, [2, 3, 4])
  engine.last.succeed()
  await settled()
  assert.deepEqual(engine.last.ids, [5])
  engine.last.succeed()
  assert.deepEqual(
    (await Promise.all(answers)).map(({ tokens }) => [...tokens]),
    [1, 2, 3, 4, 5].map((id) => [id, id + 1, id + 2, id + 3]),
  )
})

test('images run longest first, and each gets its own tokens, cut to its length', async () => {
  const { batcher, engine } = batcherWithEngine()
  const first = batcher.encode(image(9), 1)
  const answers = [1, 4, 2, 4].map((length, index) => batcher.encode(image(index * 10), length))
  engine.last.succeed()
  await first
  await settled()
  assert.deepEqual(engine.last.ids, [10, 30, 20, 0])
  assert.deepEqual(engine.last.lengths, [4, 4, 2, 1])
  engine.last.succeed()
  assert.deepEqual(
    (await Promise.all(answers)).map(({ tokens }) => [...tokens]),
    [[0], [10, 11, 12, 13], [20, 21], [30, 31, 32, 33]],
  )
})

test('a short sequence is padded with the absent id', async () => {
  const { batcher, engine } = batcherWithEngine()
  const first = batcher.decode([7])
  const second = batcher.decode(Uint16Array.of(1, 2, 3, 4))
  assert.deepEqual(engine.last.tokens, [7, 10, 10, 10])
  engine.last.succeed()
  assert.deepEqual([...(await first).pixels], [7, 7, 7])
  await settled()
  assert.deepEqual(engine.last.tokens, [1, 2, 3, 4])
  engine.last.succeed()
  assert.deepEqual([...(await second).pixels], [1, 1, 1])
})

test('encode and decode take turns', async () => {
  const { batcher, engine } = batcherWithEngine(1)
  const answers = [1, 2, 3, 4].map((id) => batcher.encode(image(id), 4))
  const others = [5, 6].map((id) => batcher.decode([id]))
  for (let batch = 0; batch < 6; batch++) {
    engine.last.succeed()
    await settled()
  }
  await Promise.all([...answers, ...others])
  assert.deepEqual(
    engine.calls.map(({ kind }) => kind),
    ['encode', 'decode', 'encode', 'decode', 'encode', 'encode'],
  )
})

test('a single image gets a place next to a large request, and batches stay full', async () => {
  const { batcher, engine } = batcherWithEngine(8)
  const large = new AbortController().signal
  const pair = new AbortController().signal
  const answers = Array.from({ length: 20 }, (_, id) => batcher.encode(image(id), 4, large))
  const single = batcher.encode(image(100), 4, new AbortController().signal)
  const both = [101, 102].map((id) => batcher.encode(image(id), 4, pair))
  for (let batch = 0; batch < 4; batch++) {
    engine.last.succeed()
    await settled()
  }
  await Promise.all([...answers, single, ...both])
  assert.deepEqual(
    engine.calls.map(({ ids }) => ids),
    // Every fourth place in turn: to the large request, the single, the pair, the large request, the pair.
    [[0], [1, 2, 3, 4, 5, 6, 100, 7], [8, 9, 101, 10, 11, 12, 13, 14], [15, 16, 102, 17, 18, 19]],
  )
})

test('a large request makes progress, in order, next to any number of single images', async () => {
  const { batcher, engine } = batcherWithEngine(4)
  const large = new AbortController().signal
  const answers = Array.from({ length: 20 }, (_, id) => batcher.encode(image(id), 4, large))
  for (let batch = 0; batch < 5; batch++) {
    answers.push(...Array.from({ length: 8 }, (_, i) => batcher.encode(image(100 + 8 * batch + i), 4)))
    engine.last.succeed()
    await settled()
    assert.ok(engine.last.ids.filter((id) => id < 100).length >= 3, `${engine.last.ids}`)
  }
  while (engine.calls.flatMap(({ ids }) => ids).length < answers.length) {
    engine.last.succeed()
    await settled()
  }
  engine.last.succeed()
  await Promise.all(answers)
  const order = engine.calls.flatMap(({ ids }) => ids).filter((id) => id < 100)
  assert.deepEqual(order, [...order.keys()])
})

test('engines share the queues; a removed one gets nothing', async () => {
  const { batcher, engine } = batcherWithEngine(1)
  const other = new ManualEngine()
  batcher.add(other)
  assert.equal(batcher.engines, 2)
  const answers = [1, 2, 3].map((id) => batcher.encode(image(id), 4))
  assert.deepEqual([engine.last.ids, other.last.ids], [[1], [2]])
  batcher.remove(other)
  other.over = true
  other.last.succeed()
  await settled()
  assert.equal(other.calls.length, 1)
  engine.last.succeed()
  await settled()
  assert.deepEqual(engine.last.ids, [3])
  engine.last.succeed()
  await Promise.all(answers)
})

test('with several engines, none takes more than its share, so that the others get work too', async () => {
  const { batcher, engine } = batcherWithEngine(8)
  const other = new ManualEngine()
  batcher.add(other)
  const answers = [1, 2, 3, 4, 5, 6, 7, 8].map((id) => batcher.encode(image(id), 4))
  assert.deepEqual([engine.last.ids, other.last.ids], [[1], [2]])
  engine.last.succeed()
  await settled()
  assert.deepEqual(engine.last.ids, [3, 4, 5, 6])
  other.last.succeed()
  await settled()
  assert.deepEqual(other.last.ids, [7, 8])
  engine.last.succeed()
  other.last.succeed()
  await Promise.all(answers)
})

test('the items of a failed batch run again one by one, so that only the failing one fails; the others are answered', async () => {
  const { batcher, engine } = batcherWithEngine()
  const first = batcher.encode(image(100), 4)
  const answers = Promise.allSettled([0, 1, 2, 3, 4, 5].map((id) => batcher.encode(image(id), 4)))
  engine.last.succeed()
  await first
  await settled()
  const late = batcher.encode(image(6), 4)
  const bad = 4
  while (!engine.last.ids.includes(6)) {
    if (engine.last.ids.includes(bad)) engine.last.fail(new Error('boom'))
    else engine.last.succeed()
    await settled()
  }
  engine.last.succeed()
  await late
  assert.deepEqual(
    engine.calls.map(({ ids }) => ids),
    [[100], [0, 1, 2, 3, 4, 5], [0], [1], [2], [3], [4], [5], [6]],
  )
  for (const [id, answer] of (await answers).entries()) {
    assert.equal(answer.status, id === bad ? 'rejected' : 'fulfilled')
    if (answer.status === 'rejected') {
      assert.ok(answer.reason instanceof EngineFailedError)
      assert.match(answer.reason.message, /boom/)
    }
  }
})

test('an item in a batch of its own is tried twice', async () => {
  const { batcher, engine } = batcherWithEngine()
  const lucky = batcher.encode(image(1), 4)
  engine.last.fail(new Error('killed by chance'))
  await settled()
  engine.last.succeed()
  await lucky
  const unlucky = batcher.encode(image(2), 4)
  const rejected = assert.rejects(unlucky, EngineFailedError)
  engine.last.fail(new Error('boom'))
  await settled()
  engine.last.fail(new Error('boom'))
  await rejected
  assert.equal(engine.calls.length, 4)
})

test('an engine that something outside kills does not count against its item, but not for ever', async () => {
  for (const [kills, answered] of [
    [3, true],
    [4, false],
  ] as const) {
    const { batcher, engine } = batcherWithEngine()
    const answer = batcher.encode(image(7), 4)
    answer.catch(() => {})
    for (let kill = 0; kill < kills; kill++) {
      engine.last.fail(new EngineKilledError('the engine ended with SIGKILL'))
      await settled()
    }
    assert.equal(engine.calls.length, answered ? kills + 1 : kills)
    if (answered) engine.last.succeed()
    else await assert.rejects(answer, /SIGKILL/)
    if (answered) assert.deepEqual([...(await answer).tokens], [7, 8, 9, 10])
  }
})

test('an abort removes an item from the queue and from a retry', async () => {
  const { batcher, engine } = batcherWithEngine()
  const controller = new AbortController()
  const running = batcher.encode(image(1), 4, controller.signal)
  const queued = batcher.encode(image(2), 4, controller.signal)
  const stays = batcher.encode(image(3), 4)
  controller.abort(new Error('gone'))
  await assert.rejects(running, /gone/)
  await assert.rejects(queued, /gone/)
  await assert.rejects(batcher.encode(image(4), 4, controller.signal), /gone/)
  engine.last.fail(new Error('boom'))
  await settled()
  assert.deepEqual(engine.last.ids, [3])
  engine.last.succeed()
  await stays
  assert.equal(engine.calls.length, 2)
})

test('it reports queue depth, batches and graphs', async () => {
  const said: unknown[] = []
  const batcher = new Batcher(shape, 8, {
    batch: (kind, size) => said.push(['batch', kind, size]),
    graph: (name, seconds) => said.push(['graph', name, seconds]),
    queueDepth: (kind, images) => said.push(['depth', kind, images]),
  })
  const engine = new ManualEngine()
  const answers = [batcher.decode([1]), batcher.decode([2])]
  batcher.add(engine)
  engine.last.succeed()
  const [answer] = await Promise.all(answers)
  assert.deepEqual(Object.keys(answer?.timings ?? {}), ['queue', 'decoder'])
  assert.deepEqual(said, [
    ['depth', 'decode', 1],
    ['depth', 'decode', 2],
    ['depth', 'decode', 0],
    ['batch', 'decode', 2],
    ['graph', 'decoder', 0.001],
  ])
})

test('it is drained when nothing waits or runs', async () => {
  const { batcher, engine } = batcherWithEngine()
  await batcher.drained()
  const answer = batcher.decode([1])
  let drained = false
  const draining = batcher.drained().then(() => {
    drained = true
  })
  await settled()
  assert.equal(drained, false)
  engine.last.succeed()
  await answer
  await draining
})
