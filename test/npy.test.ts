import assert from 'node:assert/strict'
import { test } from 'node:test'
import { integers, NpyError, parseNpy, writeNpy } from '../src/npy.ts'
import { fixture } from './helpers/service.ts'

const load = (name: string) => parseNpy(fixture(`numpy/${name}.npy`))

test('files written by numpy are read', () => {
  const { dtype, shape, data } = load('images-uint8')
  assert.deepEqual([dtype, shape, data.length], ['u1', [3, 128, 128, 3], 3 * 128 * 128 * 3])
  assert.deepEqual(load('tokens-uint16').shape, [2, 128])
  assert.deepEqual(load('tokens-int64-1d').shape, [128])
})

test('the same tokens are read from every integer type and format version', () => {
  const expected = integers(load('tokens-uint16'))
  assert.equal(expected.length, 256)
  assert.deepEqual(integers(load('tokens-version-2')), expected)
  assert.deepEqual(integers(load('tokens-int64-1d')), expected.slice(0, 128))
  assert.deepEqual(integers(load('tokens-int32-32-columns')), [...expected.slice(0, 32), ...expected.slice(128, 160)])
  assert.ok(integers(load('tokens-negative')).includes(-1))
})

test('what would be misread is refused', () => {
  const refused: [string, RegExp][] = [
    ['tokens-big-endian', /big-endian/],
    ['tokens-fortran-order', /Fortran/],
    ['tokens-object', /Python objects/],
    ['tokens-truncated', /announces 512 bytes of data and 412 follow/],
  ]
  for (const [name, message] of refused) assert.throws(() => load(name), { constructor: NpyError, message })
  assert.throws(() => integers(load('tokens-float64')), { constructor: NpyError, message: /integer, not f8/ })
  assert.throws(() => parseNpy(fixture('formats/cat.jpg')), { constructor: NpyError, message: /no \.npy/ })
  const whole = fixture('numpy/tokens-uint16.npy')
  for (const length of [0, 5, 9, 40, 127, whole.length - 1]) {
    assert.throws(() => parseNpy(whole.subarray(0, length)), NpyError, `${length} bytes`)
  }
  assert.throws(() => parseNpy(Buffer.concat([whole, Buffer.alloc(1)])), NpyError)
})

test('what is written is what numpy writes', () => {
  const tokens = fixture('numpy/tokens-uint16.npy')
  assert.deepEqual(writeNpy('<u2', [2, 128], [parseNpy(tokens).data]), tokens)
  const images = fixture('numpy/images-uint8.npy')
  assert.deepEqual(writeNpy('|u1', [3, 128, 128, 3], [parseNpy(images).data]), images)
})
