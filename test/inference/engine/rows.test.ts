import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fillRows, joinParts, partsOf, rowsToRun } from '../../../src/inference/engine/rows.ts'

test('parts are even, none is too large, and together they are all rows in order', () => {
  assert.deepEqual(partsOf(9, 8), [
    [0, 4],
    [4, 9],
  ])
  for (const rows of [1, 7, 8, 9, 17, 32]) {
    const parts = partsOf(rows, 8)
    const sizes = parts.map(([start, end]) => end - start)
    assert.ok(Math.max(...sizes) <= 8 && Math.max(...sizes) - Math.min(...sizes) <= 1, `${rows}: ${sizes}`)
    assert.equal(parts.length, Math.ceil(rows / 8))
    assert.deepEqual(
      parts.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i)),
      Array.from({ length: rows }, (_, i) => i),
    )
  }
})

test('parts are joined in order, and a single one is not copied', () => {
  assert.deepEqual(joinParts([Float32Array.of(0.5, 1.5), Float32Array.of(2.5)]), Float32Array.of(0.5, 1.5, 2.5))
  const alone = Uint8Array.of(7)
  assert.equal(joinParts([alone]), alone)
  assert.throws(() => joinParts([]), RangeError)
})

test('rows are padded with zeros', () => {
  assert.deepEqual(fillRows(Int32Array.of(1, 2, 3, 4, 5, 6), 3, 4), Int32Array.of(1, 2, 3, 4, 5, 6, 0, 0))
  // A view of a larger buffer must not include what follows it.
  const view = Float32Array.of(0.5, 1.5, 9, 9).subarray(0, 2)
  assert.deepEqual(fillRows(view, 1, 2), Float32Array.of(0.5, 1.5, 0, 0))
  assert.equal(fillRows(view, 1, 1), view)
})

test('a batch runs at the next size of the plan, or at its own size if the plan has none', () => {
  const run = (sizes: number[]) =>
    [1, 2, 3, 5, 64, 65, 100].map((rows) => rowsToRun(rows, { max: 100, part: 8, sizes }))
  assert.deepEqual(run([1, 2, 4, 8, 16, 32, 64, 100]), [1, 2, 4, 8, 64, 100, 100])
  assert.deepEqual(run([]), [1, 2, 3, 5, 64, 65, 100])
})
