import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { InferenceOptions } from '../../src/inference/inference.ts'
import { tinyBundle } from '../helpers/bundle.ts'
import { startInference } from './support.ts'

const SIDE = 16

async function started(t: TestContext, name: 'parallel' | 'state' | 'whole', options: Partial<InferenceOptions> = {}) {
  const { inference, observed } = await startInference({ model: tinyBundle(name), ...options })
  t.after(() => inference.close())
  return { inference, observed }
}

const grey = (level: number) => new Uint8Array(SIDE * SIDE * 3).fill(level)
/** An image with these grey levels in its four quadrants. */
const quadrants = (levels: number[]) =>
  Uint8Array.from({ length: SIDE * SIDE * 3 }, (_, i) => {
    const pixel = Math.floor(i / 3)
    const [row, column] = [Math.floor(pixel / SIDE), pixel % SIDE]
    return levels[2 * Number(row >= SIDE / 2) + Number(column >= SIDE / 2)] ?? 0
  })

/** The tokens that the bundle `state` gives for a grey image. */
function spoken(level: number): number[] {
  let said = 0
  return [0, 1, 2, 3].map(() => {
    said = said / 2 + level / 255
    return Math.floor(8 * said)
  })
}

test('a parallel model returns and accepts only whole sequences', async (t) => {
  const { inference } = await started(t, 'parallel')
  const { kind, prefixes, length, stages, image, source } = inference.info
  assert.deepEqual({ kind, prefixes, length, stages }, { kind: 'parallel', prefixes: false, length: 4, stages: [4] })
  assert.deepEqual(image, {
    ...{ size: SIDE, kernel: 'bicubic', longerSide: 'floor', cropOffset: 'half-even' },
    ...{ space: 'srgb', background: '#ffffff' },
  })
  assert.deepEqual(source, { family: 'fixture', licence: 'MIT' })
  const images = [quadrants([0, 85, 170, 255]), quadrants([255, 17, 34, 51])]
  const answers = await Promise.all(images.map((pixels) => inference.encode(pixels, 4)))
  assert.deepEqual(
    answers.map(({ tokens }) => [...tokens]),
    [
      [0, 5, 10, 15],
      [15, 1, 2, 3],
    ],
  )
  const drawn = await Promise.all(answers.map(({ tokens }) => inference.decode(tokens)))
  for (const [index, { pixels }] of drawn.entries()) assert.deepEqual(new Uint8Array(pixels), images[index])
  await assert.rejects(inference.encode(grey(0), 3), {
    name: 'RangeError',
    message: 'a sequence must have 4 tokens, not 3',
  })
  await assert.rejects(inference.decode([1, 2, 3]), {
    name: 'RangeError',
    message: 'a sequence must have 4 tokens, not 3',
  })
  await assert.rejects(inference.decode([1, 2, 3, 16]), { name: 'RangeError', message: /ids are 0 to 15/ })
})

test('stages hand over their state, which ids do not contain, also in a batch of several lengths', async (t) => {
  const { inference, observed } = await started(t, 'state')
  // Some of these agree in their first two tokens and differ in the later ones.
  const levels = Array.from({ length: 32 }, (_, i) => 8 * i + 3)
  const agree = levels.filter((level) => spoken(level).slice(0, 2).join() === spoken(131).slice(0, 2).join())
  assert.ok(new Set(agree.map((level) => spoken(level).join())).size > 1, `${agree}`)
  const asked = levels.map((level, index) => ({ level, length: 1 + (index % 4) }))
  const answers = await Promise.all(asked.map(({ level, length }) => inference.encode(grey(level), length)))
  assert.deepEqual(
    answers.map(({ tokens }) => [...tokens]),
    asked.map(({ level, length }) => spoken(level).slice(0, length)),
  )
  assert.ok(observed.batches.some(({ size }) => size > 1))
})

test('a batch that needs only the first stage runs no other', async (t) => {
  const { inference } = await started(t, 'state')
  const { timings } = await inference.encode(grey(200), 2)
  assert.deepEqual(Object.keys(timings), ['queue', 'encoder', 'mocet-1'])
})

test('a causal model may decode only whole sequences', async (t) => {
  const { inference } = await started(t, 'whole')
  assert.deepEqual([...(await inference.encode(grey(255), 4)).tokens], [3, 6, 9, 12])
  assert.deepEqual([...(await inference.encode(grey(130), 3)).tokens], [1, 2, 3])
  await assert.rejects(inference.decode([2, 4, 6]), {
    name: 'RangeError',
    message: 'a sequence must have 4 tokens, not 3',
  })
  assert.equal((await inference.decode([1, 2, 3, 4])).pixels[0], 10)
})
