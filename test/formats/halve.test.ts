import assert from 'node:assert/strict'
import { test } from 'node:test'
import { halve } from '../../src/formats/halve.ts'

/** One row of grey, repeated. */
const rows = (values: number[], height: number) => ({
  data: Uint8Array.from(Array.from({ length: height }, () => values.flatMap((value) => [value, value, value])).flat()),
  width: values.length,
  height,
})

test('pixels are means of two, rounded up at a half, or of three where a side is odd', () => {
  const first = (values: number[], height: number) => {
    const half = halve(rows(values, height))
    assert.deepEqual([half.width, half.height], [values.length >> 1, height >> 1])
    return Array.from({ length: half.width }, (_, x) => half.data[x * 3])
  }
  assert.deepEqual(first([10, 20, 30, 41], 2), [15, 36])
  assert.deepEqual(first([0, 1, 255, 255], 3), [1, 255])
  assert.deepEqual(first([3, 9, 12], 2), [8])
  // The middle one of five belongs to the first window, whose end is on its centre.
  assert.deepEqual(first([0, 30, 60, 100, 200], 2), [30, 150])
})
