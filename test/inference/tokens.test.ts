import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Inference } from '../../src/inference/inference.ts'
import { usableMachine } from '../../src/inference/sizing.ts'
import { photos, startInference } from './support.ts'

let inference: Inference
let images: Uint8Array[]
/** The tokens of each image, encoded alone at full length. */
let alone: Uint16Array[]

before(async () => {
  images = await photos(36)
  inference = (await startInference()).inference
  alone = []
  for (const image of images) alone.push((await inference.encode(image, 128)).tokens)
})
after(() => inference.close())

test('it reports what it serves', async () => {
  const { modelDigest, bundleDigest, provider, providerReason, ...info } = inference.info
  assert.match(modelDigest, /^[0-9a-f]{64}$/)
  assert.match(bundleDigest, /^[0-9a-f]{64}$/)
  assert.equal(provider, 'cpu')
  assert.equal(providerReason, 'the CPU was requested')
  assert.deepEqual(info, {
    name: 'nativetok-128',
    kind: 'causal',
    prefixes: true,
    imageSize: 128,
    image: {
      ...{ size: 128, kernel: 'lanczos3', longerSide: 'round', cropOffset: 'ceil' },
      ...{ space: 'srgb', background: '#ffffff' },
    },
    length: 128,
    stages: [32, 64, 128],
    codebook: { size: 4096, dimension: 12, normalised: true },
    engines: 1,
    threads: (await usableMachine()).cores,
    maxBatch: 32,
  })
  assert.equal(inference.ready, true)
  assert.equal(inference.codebookFile.toString('latin1', 1, 6), 'NUMPY')
})

test('different photos have different tokens, all in the codebook', () => {
  assert.equal(new Set(alone.map(String)).size, images.length)
  for (const tokens of alone) {
    assert.equal(tokens.length, 128)
    assert.ok(tokens.every((id) => id < 4096))
  }
})

test('tokens do not depend on what else is in the batch', async () => {
  const together = await Promise.all(images.map((image) => inference.encode(image, 128)))
  assert.deepEqual(
    together.map(({ tokens }) => tokens),
    alone,
  )
})

test('tokens do not depend on concurrent requests of other lengths and kinds', async () => {
  const lengths = [128, 1, 40, 32, 64, 33, 65, 100, 2]
  const lengthOf = (index: number) => lengths[index % lengths.length] ?? 128
  const encodes = images.map((image, index) => inference.encode(image, lengthOf(index)))
  const decodes = alone.map((tokens, index) => inference.decode(tokens.subarray(0, lengthOf(index))))
  const encoded = await Promise.all(encodes)
  await Promise.all(decodes)
  assert.deepEqual(
    encoded.map(({ tokens }) => tokens),
    alone.map((tokens, index) => tokens.slice(0, lengthOf(index))),
  )
})

test('a shorter encoding is a prefix of the full one', async () => {
  const [image] = images
  assert.ok(image)
  for (const length of [1, 31, 32, 33, 40, 64, 65, 127, 128]) {
    const { tokens } = await inference.encode(image, length)
    assert.deepEqual(tokens, alone[0]?.slice(0, length))
  }
})

test('a length runs only the stages that it needs', async () => {
  const [image] = images
  assert.ok(image)
  const graphs = async (length: number) => Object.keys((await inference.encode(image, length)).timings)
  assert.deepEqual(await graphs(32), ['queue', 'encoder', 'mocet-1'])
  assert.deepEqual(await graphs(40), ['queue', 'encoder', 'mocet-1', 'mocet-2'])
  assert.deepEqual(await graphs(128), ['queue', 'encoder', 'mocet-1', 'mocet-2', 'mocet-3'])
})

test('sequences of mixed lengths decode together to the same images as alone', async () => {
  const sequences = alone.map((tokens, index) => tokens.subarray(0, [1, 8, 32, 40, 64, 128][index % 6]))
  const together = await Promise.all(sequences.map((tokens) => inference.decode(tokens)))
  for (const [index, tokens] of sequences.entries()) {
    const { pixels, timings } = await inference.decode(tokens)
    assert.deepEqual(Object.keys(timings), ['queue', 'decoder'])
    assert.equal(pixels.length, 128 * 128 * 3)
    // The decoder's sums may round differently by batch size, which changes a pixel by at most one step.
    const other = together[index]?.pixels
    assert.ok(pixels.every((value, at) => Math.abs(value - (other?.[at] ?? Number.NaN)) <= 1))
  }
})

test('the tokens missing from a prefix change the picture', async () => {
  const [tokens] = alone
  assert.ok(tokens)
  const whole = await inference.decode(tokens)
  const part = await inference.decode(tokens.subarray(0, 32))
  assert.notDeepEqual(part.pixels, whole.pixels)
})

test('ids may be a plain array', async () => {
  const [tokens] = alone
  assert.ok(tokens)
  assert.deepEqual((await inference.decode([...tokens])).pixels, (await inference.decode(tokens)).pixels)
})

test('inputs that the model does not support are refused', async () => {
  const [image] = images
  assert.ok(image)
  await assert.rejects(inference.encode(image.subarray(3), 128), RangeError)
  for (const length of [0, 129, 1.5, Number.NaN]) await assert.rejects(inference.encode(image, length), RangeError)
  for (const ids of [[], new Array(129).fill(0), [4096], [-1], [0.5], [Number.NaN]]) {
    await assert.rejects(inference.decode(ids), RangeError)
  }
})
