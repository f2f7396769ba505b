import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, type TestContext, test } from 'node:test'
import { readBundle } from '../../src/inference/bundle.ts'
import { ProcessEngine } from '../../src/inference/engine/engine.ts'
import type { Inference, InferenceOptions } from '../../src/inference/inference.ts'
import { BUNDLE } from '../helpers/bundle.ts'
import type { Created, Ran } from './cuda-child.ts'
import { photos, startInference } from './support.ts'

// The CPU stands in for CUDA: this tests what is requested from CUDA, not what CUDA computes.
const CUDA_CHILD = new URL('./cuda-child.ts', import.meta.url)
const GRAPHS = ['encoder', 'mocet-1', 'mocet-2', 'mocet-3', 'decoder'].length

const images = await photos(7)
const folder = await mkdtemp(join(tmpdir(), 'cuda-'))
const file = join(folder, 'log')
process.env.CUDA_CHILD_LOG = file
after(() => rm(folder, { recursive: true }))

let expected: Uint16Array[]
before(async () => {
  const { inference } = await startInference()
  expected = await encodeAll(inference)
  await inference.close()
})

function encodeAll(inference: Inference, length = 128): Promise<Uint16Array[]> {
  return Promise.all(images.map(async (image) => (await inference.encode(image, length)).tokens))
}

async function startCuda(t: TestContext, options: Partial<InferenceOptions> = {}) {
  await writeFile(file, '')
  const started = await startInference({ provider: 'cuda', threads: 1, maxBatch: 8, ...options }, CUDA_CHILD)
  t.after(() => started.inference.close())
  const read = async () =>
    (await readFile(file, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Created | Ran)
  const created = async () => (await read()).filter((entry) => 'providers' in entry)
  const ran = async () => (await read()).filter((entry) => 'rows' in entry)
  return { ...started, created, ran }
}

test('one engine per device, every graph on it, exact float32', async (t) => {
  const { inference, observed, created } = await startCuda(t, { devices: [0, 2], engines: undefined, maxBatch: 1 })
  assert.equal(inference.info.provider, 'cuda')
  const devices = observed.pids.map(async (pid) => {
    const sessions = (await created()).filter((session) => session.pid === pid)
    assert.equal(sessions.length, GRAPHS)
    assert.ok(sessions.every(({ tf32 }) => tf32 === '0'))
    const [first] = sessions
    for (const { providers } of sessions) assert.deepEqual(providers, first?.providers)
    return first?.providers
  })
  const cuda = (deviceId: number) => [{ name: 'cuda', deviceId }]
  const asked = (await Promise.all(devices)).map((providers) => JSON.stringify(providers)).sort()
  assert.deepEqual(asked, [JSON.stringify(cuda(0)), JSON.stringify(cuda(2))])
})

test('CUDA may use TensorFloat-32 if that is requested', async (t) => {
  const { created } = await startCuda(t, { tf32: true, maxBatch: 1 })
  assert.ok((await created()).every(({ tf32 }) => tf32 === undefined))
})

test('every graph is warmed up at every pinned size and runs at no other; answers equal those of batches without padding', async (t) => {
  const { inference, observed, ran } = await startCuda(t)
  const sizes = [1, 2, 4, 8]
  const warmUp = await ran()
  const runs = (size: number) => warmUp.filter(({ rows }) => rows === size).length / GRAPHS
  // One item runs several times, to measure how long it takes.
  assert.ok(Number.isInteger(runs(1)) && runs(1) >= 1)
  for (const size of sizes.slice(1)) assert.equal(runs(size), 1, `size ${size}`)
  assert.ok(warmUp.every(({ rows = 0 }) => sizes.includes(rows)))

  assert.deepEqual(await encodeAll(inference), expected)
  // With these lengths, each stage has a different number of rows, and none is a pinned size.
  const lengths = [128, 128, 128, 128, 64, 64, 32]
  const mixed = await Promise.all(images.map((image, i) => inference.encode(image, lengths[i] ?? 0)))
  assert.deepEqual(
    mixed.map(({ tokens }) => tokens),
    expected.map((tokens, i) => tokens.slice(0, lengths[i])),
  )
  const alone = await inference.decode(expected[0] ?? [])
  const [together] = await Promise.all(expected.slice(0, 6).map((tokens) => inference.decode(tokens)))
  // The decoder's sums may round differently by batch size, which changes a pixel by at most one step.
  assert.ok(alone.pixels.every((value, i) => Math.abs(value - (together?.pixels[i] ?? Number.NaN)) <= 1))

  assert.ok(observed.batches.some(({ size }) => !sizes.includes(size)))
  assert.ok((await ran()).every(({ rows }) => rows !== undefined && sizes.includes(rows)))
})

test('an engine returns no padding rows', async (t) => {
  const { graphs, shape } = await readBundle(BUNDLE)
  const engine = await ProcessEngine.start({
    config: {
      ...{ graphs, shape, provider: 'cpu', device: 0, threads: 1, tf32: false },
      batches: { max: 4, sizes: [4], part: 4 },
    },
    timeoutMs: 60_000,
    child: new URL('../../src/inference/engine/child.ts', import.meta.url),
    onStderr: () => {},
  })
  t.after(() => engine.close())
  const encoded = await engine.encode({
    pixels: Uint8Array.from(Buffer.concat(images.slice(0, 3))),
    lengths: [128, 128, 128],
  })
  assert.deepEqual(encoded.tokens, Uint16Array.from(expected.slice(0, 3).flatMap((tokens) => [...tokens])))
  const { pixels } = await engine.decode({ tokens: Int32Array.from(encoded.tokens) })
  assert.equal(pixels.length, 3 * 128 * 128 * 3)
})

test('the default maximum batch size on the CPU is 32', async (t) => {
  const { inference, observed } = await startInference({ engines: 1, maxBatch: undefined })
  t.after(() => inference.close())
  const [image] = images
  assert.ok(image)
  await Promise.all(Array.from({ length: 40 }, () => inference.encode(image, 1)))
  assert.equal(Math.max(...observed.batches.map(({ size }) => size)), 32)
})
