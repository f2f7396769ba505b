import assert from 'node:assert/strict'
import { test } from 'node:test'
import { progressLine } from '../../src/tokenize/progress.ts'

test('progress says how many images, how fast, how long still, and how many failed', () => {
  const images = { unit: 'images', count: 1_281_167 } as const
  assert.equal(
    progressLine(images, { images: 12_345, errors: 1, done: 12_345 }, { images: 100, done: 100 }),
    '12,345/1,281,167 images (0 %), 100.0 images/s, 3 h 31 min left, 1 error',
  )
  const bytes = { unit: 'bytes', count: 2_000_000_000 } as const
  assert.equal(
    progressLine(bytes, { images: 7000, errors: 2, done: 1_500_000_000 }, { images: 99.96, done: 5_000_000 }),
    '7,000 images (75 % of the bytes), 100.0 images/s, 1 min 40 s left, 2 errors',
  )
  assert.match(
    progressLine(images, { images: 0, errors: 0, done: 0 }, { images: 0, done: 0 }),
    /0.0 images\/s, 0 errors$/,
  )
})
