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
  for (const name of ['tokens-version-2', 'tokens-big-endian', 'tokens-fortran-order']) {
    assert.deepEqual(load(name).shape, [2, 128])
    assert.deepEqual(integers(load(name)), expected, name)
  }
  assert.deepEqual(integers(load('tokens-int64-1d')), expected.slice(0, 128))
  assert.deepEqual(integers(load('tokens-int32-32-columns')), [...expected.slice(0, 32), ...expected.slice(128, 160)])
  assert.ok(integers(load('tokens-negative')).includes(-1))
})

test('arrays that would be misread are refused', () => {
  const refused: [string, RegExp][] = [
    ['tokens-object', /Python objects/],
    ['tokens-truncated', /announces 512 bytes of data, but 412 follow/],
  ]
  for (const [name, message] of refused) assert.throws(() => load(name), { constructor: NpyError, message })
  assert.throws(() => integers(load('tokens-float64')), { constructor: NpyError, message: /integer type, not f8/ })
  assert.throws(() => parseNpy(fixture('formats/cat.jpg')), { constructor: NpyError, message: /not a \.npy/ })
  const whole = fixture('numpy/tokens-uint16.npy')
  for (const length of [0, 5, 9, 40, 127, whole.length - 1]) {
    assert.throws(() => parseNpy(whole.subarray(0, length)), NpyError, `${length} bytes`)
  }
  assert.throws(() => parseNpy(Buffer.concat([whole, Buffer.alloc(1)])), NpyError)
})

/** A file with this header, followed by this much data. */
function withHeader(header: string, data: Buffer): Buffer {
  const head = Buffer.from('\x93NUMPY\x01\0\0\0', 'latin1')
  head.writeUInt16LE(header.length, 8)
  return Buffer.concat([head, Buffer.from(header, 'latin1'), data])
}

test('headers of other writers are read if they are Python dictionaries', () => {
  const data = Buffer.from(Uint16Array.from([0, 1, 2, 3, 4, 5, 6, 4095]).buffer)
  const headers = [
    "{'shape': (8,), 'descr': '<u2', 'fortran_order': False}",
    "{'descr': '<u2', 'fortran_order': True, 'shape': (8,), }\n",
    '{"descr": "<u2", "fortran_order": False, "shape": (8,)}',
    "  {'descr':'<u2','fortran_order':False,'shape':(8,),}   \n",
    "{ 'descr' : '<u2' ,\n 'fortran_order' : False ,\n 'shape' : ( 8 , ) }",
    "{u'descr': u'<u2', 'fortran_order': False, 'shape': (8L,)}",
    "{'descr': 'uint16', 'fortran_order': False, 'shape': (8,)}",
    "{'descr': '=u2', 'fortran_order': False, 'shape': (8,)}",
    "{'descr': '<H', 'fortran_order': False, 'shape': (8,)}",
  ]
  for (const header of headers) {
    const array = parseNpy(withHeader(header, data))
    assert.deepEqual(array.shape, [8], header)
    assert.deepEqual(integers(array), [0, 1, 2, 3, 4, 5, 6, 4095], header)
  }
  const refused = [
    "{'descr': '<u2', 'fortran_order': False, 'shape': (8)}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': [8]}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (,8)}",
    "{'descr': '<u2', 'fortran_order': 'False', 'shape': (8,)}",
    "{'descr': '<u2', 'fortran_order': False}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (8,), 'x': (8,)}",
    "{'descr': '<u2', 'descr': '>u2', 'fortran_order': False, 'shape': (8,)}",
    "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (8,)}",
    "{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<u2' 'fortran_order': False, 'shape': (8,)}",
    '',
  ]
  for (const header of refused) {
    const message = /does not describe a plain array/
    assert.throws(() => parseNpy(withHeader(header, data)), { constructor: NpyError, message }, header)
  }
})

test('an array in Fortran order gives the same array', () => {
  const shape = [2, 3, 4, 3]
  const count = shape.reduce((a, b) => a * b)
  for (const width of [1, 2, 4, 8]) {
    const [inC, inFortran] = [Buffer.alloc(count * width), Buffer.alloc(count * width)]
    for (let i = 0; i < count; i++) {
      // The index of each axis, from the place in C order.
      const [a, b, c, d] = [Math.floor(i / 36), Math.floor(i / 12) % 3, Math.floor(i / 3) % 4, i % 3]
      const at = a + 2 * (b + 3 * (c + 4 * d))
      inC.writeUInt8(i, i * width)
      inFortran.writeUInt8(i, at * width)
    }
    const header = (fortran: string) => `{'descr': '<u${width}', 'fortran_order': ${fortran}, 'shape': (2, 3, 4, 3)}`
    const array = parseNpy(withHeader(header('True'), inFortran))
    assert.deepEqual(array.shape, shape)
    assert.deepEqual(array.data, inC)
    assert.deepEqual(parseNpy(withHeader(header('False'), inC)).data, inC)
  }
})

/** A file with this type and shape in its header, and this many bytes of data. */
function announcing(descr: string, shape: string, bytes = 0, version = 1): Buffer {
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }\n`
  const head = Buffer.from([...Buffer.from('\x93NUMPY', 'latin1'), version, 0, 0, 0, 0, 0])
  if (version === 1) head.writeUInt16LE(text.length, 8)
  else head.writeUInt32LE(text.length, 8)
  return Buffer.concat([head.subarray(0, version === 1 ? 10 : 12), Buffer.from(text), Buffer.alloc(bytes)])
}

test('headers that announce an impossible array are refused', () => {
  assert.deepEqual(parseNpy(announcing('|u1', '3,', 3)).shape, [3])
  const refused: [string, Buffer, RegExp][] = [
    ['a product past 2^53', announcing('<u2', '4294967296, 4294967296'), /impossible/],
    ['an infinite product', announcing('<u2', `${'9'.repeat(400)},`), /impossible/],
    ['a product of zero and infinity', announcing('<u2', `0, ${'9'.repeat(400)}`), /impossible/],
    ['a negative dimension', announcing('<u2', '-1, 4'), /plain array/],
    ['65 dimensions', announcing('|u1', '1, '.repeat(65), 1), /impossible/],
    ['more than follows', announcing('|u1', '4000000000,', 3), /announces 4000000000 bytes of data, but 3 follow/],
    ['a header larger than NumPy reads', announcing('|u1', `${' '.repeat(10_000)}1`, 1, 2), /header is larger/],
  ]
  for (const [what, file, message] of refused)
    assert.throws(() => parseNpy(file), { constructor: NpyError, message }, what)
  const long = Buffer.concat([Buffer.from('\x93NUMPY\x03\0\xff\xff\xff\xff', 'latin1'), Buffer.alloc(50)])
  assert.throws(() => parseNpy(long), { constructor: NpyError, message: /header is larger/ })
})

test('integers are read up to the number of tokens in a request', () => {
  assert.throws(() => integers(parseNpy(announcing('|u1', '5000000,', 5_000_000))), {
    constructor: NpyError,
    message: /5000000 elements/,
  })
})

test('arrays are written as numpy writes them', () => {
  const tokens = fixture('numpy/tokens-uint16.npy')
  assert.deepEqual(writeNpy('<u2', [2, 128], [parseNpy(tokens).data]), tokens)
  const images = fixture('numpy/images-uint8.npy')
  assert.deepEqual(writeNpy('|u1', [3, 128, 128, 3], [parseNpy(images).data]), images)
})
