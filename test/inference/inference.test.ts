import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import {
  EngineFailedError,
  type Inference,
  type InferenceOptions,
  QueueFullError,
} from '../../src/inference/inference.ts'
import { BUNDLE } from '../helpers/bundle.ts'
import { POISON } from './poison.ts'
import { alive, photos, startInference } from './support.ts'

const POISON_CHILD = new URL('./poison-child.ts', import.meta.url)
const SLOW_CHILD = new URL('./slow-child.ts', import.meta.url)
const FAILING_CHILD = new URL('./failing-child.ts', import.meta.url)

const images = await photos(8)
const encodeAll = (inference: Inference, batch = images) =>
  Promise.all(batch.map(async (image) => (await inference.encode(image, 128)).tokens))

async function started(t: TestContext, options: Partial<InferenceOptions> = {}, child?: URL) {
  const { inference, observed } = await startInference(options, child)
  t.after(() => inference.close())
  return { inference, observed }
}

test('an engine killed during a batch is replaced, and the replacement answers', async (t) => {
  const { inference, observed } = await started(t)
  const expected = await encodeAll(inference)
  const sent = observed.nextBatch()
  const answers = encodeAll(inference)
  await sent
  const [pid] = observed.pids
  assert.ok(pid)
  process.kill(pid, 'SIGKILL')
  assert.deepEqual(await answers, expected)
  assert.deepEqual(observed.restarts, [{ kind: 'ended', reason: 'the engine ended with SIGKILL' }])
  assert.equal(observed.pids.length, 2)
  assert.equal(inference.ready, true)
})

test('an idle engine that dies is replaced', async (t) => {
  const { inference, observed } = await started(t)
  const [pid] = observed.pids
  assert.ok(pid)
  process.kill(pid, 'SIGKILL')
  while (alive(pid)) await new Promise(setImmediate)
  assert.equal((await encodeAll(inference)).length, images.length)
  assert.equal(observed.pids.length, 2)
})

test('an engine that stalls past its deadline is killed and replaced, and the replacement answers', async (t) => {
  const { inference, observed } = await started(t, { timeoutMs: 5_000 })
  const expected = await encodeAll(inference)
  const [pid] = observed.pids
  assert.ok(pid)
  process.kill(pid, 'SIGSTOP')
  assert.deepEqual(await encodeAll(inference), expected)
  assert.deepEqual(observed.restarts, [
    { kind: 'stalled', reason: 'the engine did not answer within 5000 ms and was killed' },
  ])
  assert.equal(alive(pid), false)
})

test('an engine of a slow model gets enough time for its images, and small batches', async (t) => {
  const { inference, observed } = await started(t, { timeoutMs: 1_000, maxBatch: undefined }, SLOW_CHILD)
  assert.equal(inference.info.maxBatch, 1)
  const [image] = images
  assert.ok(image)
  // Answered after two seconds.
  assert.equal((await inference.encode(image, 32)).tokens.length, 32)
  assert.deepEqual(observed.restarts, [])
})

test('only the image that crashes the engine fails', async (t) => {
  const { inference, observed } = await started(t, { maxBatch: 4 }, POISON_CHILD)
  const [first, ...others] = images.slice(0, 4)
  const poisonous = Uint8Array.from(first ?? [])
  poisonous.set(POISON)
  // A decode keeps the engine busy while the images queue for one batch.
  const busy = inference.decode([1, 2, 3])
  const [poison, ...rest] = await Promise.allSettled([poisonous, ...others].map((image) => inference.encode(image, 32)))
  await busy
  assert.equal(poison?.status, 'rejected')
  assert.ok(poison.reason instanceof EngineFailedError)
  assert.match(poison.reason.message, /SIGSEGV/)
  for (const answer of rest) assert.equal(answer.status, 'fulfilled')
  // Once in the batch of four, and once alone.
  assert.deepEqual(observed.restarts, new Array(2).fill({ kind: 'ended', reason: 'the engine ended with SIGSEGV' }))
})

test('an engine that reports a failure is replaced, since it may keep failing', async (t) => {
  const { inference, observed } = await started(t, {}, FAILING_CHILD)
  const [image] = images
  assert.ok(image)
  const poisonous = Uint8Array.from(image)
  poisonous.set(POISON)
  await assert.rejects(inference.encode(poisonous, 32), { name: 'EngineFailedError', message: /no memory/ })
  assert.equal((await inference.encode(image, 32)).tokens.length, 32)
  assert.deepEqual(
    observed.restarts,
    new Array(2).fill({ kind: 'failed', reason: 'the engine failed on a batch and was killed' }),
  )
})

for (const [fate, spoil, reason] of [
  ['altered', (bundle: string) => truncate(join(bundle, 'decoder.onnx'), 1000), /decoder\.onnx: changed on disk/],
  ['deleted', (bundle: string) => rm(bundle, { recursive: true }), /encoder\.onnx/],
] as const) {
  test(`with the bundle ${fate}, no engine starts again; this is reported, and nothing more is admitted`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'bundle-'))
    t.after(() => rm(folder, { recursive: true }))
    const bundle = join(folder, 'bundle')
    await cp(BUNDLE, bundle, { recursive: true })
    const { inference, observed } = await started(t, { model: bundle, lostAfterMs: 10_000 })
    await encodeAll(inference)
    await spoil(bundle)
    const [pid] = observed.pids
    assert.ok(pid)
    process.kill(pid, 'SIGKILL')
    const said = await inference.lost
    assert.match(said, /no engine for 10 s/)
    assert.match(said, reason)
    assert.equal(inference.ready, false)
    assert.throws(() => inference.reserve(1), { name: 'QueueFullError', retryAfter: 10 })
    assert.equal(observed.pids.length, 1)
  })
}

test('an aborted image is removed from the queue and rejects with the signal’s reason', async (t) => {
  const { inference, observed } = await started(t)
  const controller = new AbortController()
  const [image] = images
  assert.ok(image)
  const running = inference.encode(image, 128)
  const queued = images.map((queuedImage) => inference.encode(queuedImage, 128, controller.signal))
  const reason = new Error('the client has gone')
  controller.abort(reason)
  for (const answer of await Promise.allSettled(queued)) {
    assert.deepEqual(answer, { status: 'rejected', reason })
  }
  await running
  await assert.rejects(inference.encode(image, 128, controller.signal), reason)
  await inference.encode(image, 128)
  assert.deepEqual(observed.batches, [
    { kind: 'encode', size: 1 },
    { kind: 'encode', size: 1 },
  ])
})

test('closing finishes accepted work, then ends the engines', async () => {
  const { inference, observed } = await startInference({ engines: 2, threads: 1 })
  assert.equal(observed.pids.length, 2)
  const expected = await encodeAll(inference)
  const reservation = inference.reserve(images.length)
  const answers = encodeAll(inference)
  const closed = inference.close()
  assert.equal(inference.ready, false)
  assert.throws(() => inference.reserve(1), QueueFullError)
  assert.deepEqual(await answers, expected)
  // Its request is still being answered and may add images.
  reservation.grow(1)
  const [image] = images
  assert.ok(image)
  assert.deepEqual((await inference.encode(image, 128)).tokens, expected[0])
  assert.ok(observed.pids.every(alive))
  reservation.release()
  await closed
  assert.ok(!observed.pids.some(alive))
  assert.deepEqual(observed.restarts, [])
  await inference.close()
  await assert.rejects(inference.encode(image, 128), QueueFullError)
})

test('an engine ends with its parent, and ignores Ctrl-C', async () => {
  const child: ChildProcess = fork(new URL('../../src/inference/engine/child.ts', import.meta.url), {
    serialization: 'advanced',
  })
  child.send({ kind: 'encode', pixels: new Uint8Array(), lengths: [] })
  assert.deepEqual(await once(child, 'message').then(([reply]) => reply), {
    kind: 'failed',
    message: 'no model is loaded',
    bundle: false,
  })
  child.kill('SIGINT')
  child.kill('SIGTERM')
  child.send({ kind: 'decode', tokens: new Int32Array() })
  await once(child, 'message')
  child.disconnect()
  assert.deepEqual(await once(child, 'exit'), [0, null])
})
