import assert from 'node:assert/strict'
import { test } from 'node:test'
import { integers, NpyError, parseNpy, writeNpy } from '../../src/formats/npy.ts'
import { fixture } from '../helpers/service.ts'

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

/** A file whose header says this, with as many bytes of data. */
function announcing(descr: string, shape: string, bytes = 0, version = 1): Buffer {
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }\n`
  const head = Buffer.from([...Buffer.from('\x93NUMPY', 'latin1'), version, 0, 0, 0, 0, 0])
  if (version === 1) head.writeUInt16LE(text.length, 8)
  else head.writeUInt32LE(text.length, 8)
  return Buffer.concat([head.subarray(0, version === 1 ? 10 : 12), Buffer.from(text), Buffer.alloc(bytes)])
}

test('headers that announce what cannot be are refused', () => {
  assert.deepEqual(parseNpy(announcing('|u1', '3,', 3)).shape, [3])
  const refused: [string, Buffer, RegExp][] = [
    ['a product past 2^53', announcing('<u2', '4294967296, 4294967296'), /no sense/],
    ['a product that is infinite', announcing('<u2', `${'9'.repeat(400)},`), /no sense/],
    ['a product of nothing and the infinite', announcing('<u2', `0, ${'9'.repeat(400)}`), /no sense/],
    ['a negative dimension', announcing('<u2', '-1, 4'), /plain array/],
    ['65 dimensions', announcing('|u1', '1, '.repeat(65), 1), /no sense/],
    ['more than follows', announcing('|u1', '4000000000,', 3), /announces 4000000000 bytes of data and 3 follow/],
    ['a header larger than NumPy reads', announcing('|u1', `${' '.repeat(10_000)}1`, 1, 2), /header is larger/],
  ]
  for (const [what, file, message] of refused)
    assert.throws(() => parseNpy(file), { constructor: NpyError, message }, what)
  const long = Buffer.concat([Buffer.from('\x93NUMPY\x03\0\xff\xff\xff\xff', 'latin1'), Buffer.alloc(50)])
  assert.throws(() => parseNpy(long), { constructor: NpyError, message: /header is larger/ })
})

test('integers are read up to as many as a request has tokens', () => {
  assert.throws(() => integers(parseNpy(announcing('|u1', '5000000,', 5_000_000))), {
    constructor: NpyError,
    message: /5000000 elements/,
  })
})

test('what is written is what numpy writes', () => {
  const tokens = fixture('numpy/tokens-uint16.npy')
  assert.deepEqual(writeNpy('<u2', [2, 128], [parseNpy(tokens).data]), tokens)
  const images = fixture('numpy/images-uint8.npy')
  assert.deepEqual(writeNpy('|u1', [3, 128, 128, 3], [parseNpy(images).data]), images)
})
