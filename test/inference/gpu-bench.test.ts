import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { comparePixels, compareTokens } from '../../bench/gpu/compare.ts'
import type { GraphsResult } from '../../bench/gpu/graphs.ts'
import { BUNDLE } from '../helpers/bundle.ts'
import { photos } from './support.ts'

test('tokens are compared by token, by image and by the position of the first difference', () => {
  const expected = Uint16Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
  const found = Uint16Array.of(1, 2, 3, 4, 5, 0, 0, 8, 9, 10, 11, 0)
  assert.deepEqual(compareTokens(expected, found, 4), {
    images: 3,
    tokensEqual: 9 / 12,
    imagesEqual: 1 - 2 / 3,
    firstDifference: { least: 1, median: 2 },
  })
  assert.equal(compareTokens(expected, expected, 4).firstDifference, null)
})

test('pixels are compared by value', () => {
  const agreement = comparePixels(Uint8Array.of(10, 20, 30, 40), Uint8Array.of(10, 21, 27, 40))
  assert.deepEqual(agreement, { valuesEqual: 0.5, mean: 1, largest: 3 })
})

test('graphs are measured at every batch size, and tokens are compared with the CPU’s', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'gpu-bench-'))
  t.after(() => rm(folder, { recursive: true }))
  const [pixels, tokens] = [join(folder, 'pixels'), join(folder, 'tokens')]
  await writeFile(pixels, Buffer.concat(await photos(3)))
  const { stdout } = await promisify(execFile)(process.execPath, [
    'bench/gpu/graphs.ts',
    ...['--model', BUNDLE, '--provider', 'cpu', '--batches', '1,2', '--seconds', '0'],
    ...['--pixels', pixels, '--tokens', tokens],
  ])
  const result = JSON.parse(stdout) as GraphsResult
  assert.equal(result.provider, 'cpu')
  assert.deepEqual(
    result.graphs.map(({ batch }) => batch),
    [1, 2],
  )
  for (const { batch, milliseconds, encodeImagesPerSecond, mocetShare } of result.graphs) {
    assert.deepEqual(Object.keys(milliseconds), ['encoder', 'mocet-1', 'mocet-2', 'mocet-3', 'decoder'])
    const { encoder = 0, decoder = 0, ...mocet } = milliseconds
    const inMocet = Object.values(mocet).reduce((total, ms) => total + ms, 0)
    assert.ok(Math.abs(encodeImagesPerSecond - (batch * 1000) / (encoder + inMocet)) < 1e-6)
    assert.ok(Math.abs(mocetShare - inMocet / (encoder + inMocet)) < 1e-9)
    assert.ok(decoder > 0)
  }
  assert.deepEqual(
    result.tokens.map(({ batch, tokensEqual }) => [batch, tokensEqual]),
    [
      [1, 1],
      [2, 1],
    ],
  )
  assert.ok(result.pixels.largest <= 1)
  assert.equal((await readFile(tokens)).length, 3 * 128 * 2)
})
