import assert from 'node:assert/strict'
import { test } from 'node:test'
import { percentile, summarize } from '../../tools/statistics.ts'

test('a summary has the median and the extremes, whatever the order of the values', () => {
  assert.deepEqual(summarize([5, 1, 3]), { median: 3, min: 1, max: 5 })
  assert.deepEqual(summarize([4, 1, 3, 2]), { median: 2.5, min: 1, max: 4 })
  assert.deepEqual(summarize([7]), { median: 7, min: 7, max: 7 })
})

test('a percentile is interpolated between the values around it', () => {
  const values = Array.from({ length: 101 }, (_, i) => i)
  assert.equal(percentile(values, 99), 99)
  assert.equal(percentile([10, 20], 25), 12.5)
  assert.equal(percentile([10, 20], 100), 20)
})
