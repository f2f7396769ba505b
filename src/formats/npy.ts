/**
 * The part of NumPy's .npy format that this service uses: arrays of numbers in, unsigned integers out. The npm package for
 * it (npyjs) is not safe for untrusted input: it checks neither the length of the data nor the byte order, and guesses at
 * malformed headers.
 */

/** The bytes are not an array that this service can use. `message` says why, for the client. */
export class NpyError extends Error {}

export interface NpyArray {
  /** NumPy's type string without byte order: u1, i8, ... */
  dtype: string
  shape: number[]
  /** The elements, C order, little-endian: a view of the parsed bytes, or a copy if they were stored otherwise. */
  readonly data: Buffer
}

// NumPy's own limits on a header and on dimensions. Reading more integers would block the server for seconds.
const MOST_HEADER_BYTES = 10_000
const MOST_DIMENSIONS = 64
const MOST_INTEGERS = 2 ** 22
// Reordering blocks the server, as parsing JSON does.
const MOST_REORDERED_BYTES = 8 * 2 ** 20

const magic = Buffer.from('\x93NUMPY', 'latin1')

/** NumPy's names and one-letter codes of integer types, which a descr may use, as on a 64-bit machine. */
const namedTypes: Record<string, string> = {
  ...{ uint8: 'u1', uint16: 'u2', uint32: 'u4', uint64: 'u8', B: 'u1', H: 'u2', I: 'u4', L: 'u8', Q: 'u8' },
  ...{ int8: 'i1', int16: 'i2', int32: 'i4', int64: 'i8', b: 'i1', h: 'i2', i: 'i4', l: 'i8', q: 'i8' },
}

/**
 * Parses one array of format version 1, 2 or 3. Whatever its byte order and the order of its axes in the file, the
 * elements come out little-endian and in C order.
 *
 * @throws NpyError on anything else, also when there are more or fewer bytes than the shape says
 */
export function parseNpy(bytes: Buffer): NpyArray {
  if (bytes.length < 12 || !bytes.subarray(0, 6).equals(magic)) throw new NpyError('the body is not a .npy file')
  const version = bytes.readUInt8(6)
  if (version < 1 || version > 3) throw new NpyError(`.npy format version ${version} is not supported`)
  const start = version === 1 ? 10 : 12
  const end = start + (version === 1 ? bytes.readUInt16LE(8) : bytes.readUInt32LE(8))
  if (end - start > MOST_HEADER_BYTES) throw new NpyError(`the .npy header is larger than ${MOST_HEADER_BYTES} bytes`)
  if (end > bytes.length) throw new NpyError('the .npy header is cut off')
  const { descr, fortran, shape } = readHeader(bytes.toString('latin1', start, end))
  const [, order = '', type = ''] = /^([<>|=]?)(.*)$/.exec(descr) ?? []
  if (/^O/.test(type)) throw new NpyError('arrays of Python objects are not supported')
  const dtype = namedTypes[type] ?? type
  const [, kind = '', digits = ''] = /^([biufc])(\d{1,2})$/.exec(dtype) ?? []
  if (kind === '') throw new NpyError(`the .npy header does not describe a plain array, but ${descr}`)
  const width = Number(digits)
  const expected = shape.reduce((product, n) => product * n, width)
  if (shape.length > MOST_DIMENSIONS || !shape.every(Number.isSafeInteger) || !Number.isSafeInteger(expected))
    throw new NpyError('the .npy shape is impossible')
  if (bytes.length - end !== expected) {
    throw new NpyError(`the .npy header announces ${expected} bytes of data, but ${bytes.length - end} follow`)
  }
  let data: Buffer | undefined
  return {
    dtype,
    shape,
    get data() {
      if (data === undefined) {
        data = bytes.subarray(end)
        if (order === '>' && width > 1) data = swapped(data, width)
        if (fortran) data = inCOrder(data, shape, width)
      }
      return data
    },
  }
}

/** A Python string literal without escapes, which headers do not need. */
const string = String.raw`[uU]?(?:'([^'\\]*)'|"([^"\\]*)")`
const entry = new RegExp(String.raw`\s*${string}\s*:\s*(?:${string}|(True|False)|\(([\d\s,L]*)\))\s*(,|$)`, 'y')

/** Reads the header's Python dictionary: its three keys in any order, in either kind of quotes. */
function readHeader(text: string): { descr: string; fortran: boolean; shape: number[] } {
  const broken = new NpyError('the .npy header does not describe a plain array')
  const [, inside] = /^\s*\{(.*)\}\s*$/s.exec(text) ?? []
  if (inside === undefined) throw broken
  const found = new Map<string, string>()
  const entries = inside.trimEnd()
  for (entry.lastIndex = 0; entry.lastIndex < entries.length; ) {
    const match = entry.exec(entries)
    if (match === null) throw broken
    const [, singleKey, doubleKey, single, double, truth, tuple] = match
    const key = singleKey ?? doubleKey ?? ''
    const fits = { descr: single ?? double, fortran_order: truth, shape: tuple }[key]
    if (fits === undefined || found.has(key)) throw broken
    found.set(key, fits)
  }
  const shape = /^\s*(?:\d+L?\s*,\s*)*(?:\d+L?\s*)?$/.exec(found.get('shape') ?? '?')?.[0]
  // (8) is a number in Python, not a tuple.
  if (found.size !== 3 || shape === undefined || /^\s*\d+L?\s*$/.test(shape)) throw broken
  return {
    descr: found.get('descr') as string,
    fortran: found.get('fortran_order') === 'True',
    shape: (shape.match(/\d+/g) ?? []).map(Number),
  }
}

/** A copy with the bytes of every element reversed. */
function swapped(data: Buffer, width: number): Buffer {
  const copy = Buffer.from(data)
  if (width === 2) return copy.swap16()
  if (width === 4) return copy.swap32()
  if (width === 8) return copy.swap64()
  throw new NpyError(`big-endian elements of ${width} bytes are not supported`)
}

/** Fortran order, in which the first axis runs fastest, to C order, in which the last one does. */
function inCOrder(data: Buffer, shape: number[], width: number): Buffer {
  if (data.length === 0 || shape.filter((n) => n > 1).length < 2) return data
  if (data.length > MOST_REORDERED_BYTES) {
    const most = `${MOST_REORDERED_BYTES / 2 ** 20} MiB`
    throw new NpyError(`arrays in Fortran order of more than ${most} are not supported; use numpy.ascontiguousarray`)
  }
  const copy = Buffer.allocUnsafe(data.length)
  // Bytes from one element to the next along each axis, in either order. The longest axis makes the innermost loop.
  const axes = shape
    .map((size, axis) => ({
      size,
      from: shape.slice(0, axis).reduce((product, n) => product * n, width),
      to: shape.slice(axis + 1).reduce((product, n) => product * n, width),
    }))
    .sort((a, b) => a.size - b.size)
  const copyAxis = (depth: number, from: number, to: number) => {
    const axis = axes[depth]
    if (axis === undefined) {
      for (let byte = 0; byte < width; byte++) copy[to + byte] = data[from + byte] as number
    } else if (depth === axes.length - 1 && width === 1) {
      for (let i = 0; i < axis.size; i++) copy[to + i * axis.to] = data[from + i * axis.from] as number
    } else {
      for (let i = 0; i < axis.size; i++) copyAxis(depth + 1, from + i * axis.from, to + i * axis.to)
    }
  }
  copyAxis(0, 0, 0)
  return copy
}

const readers: Record<string, (data: Buffer, offset: number) => number> = {
  u1: (data, offset) => data.readUInt8(offset),
  u2: (data, offset) => data.readUInt16LE(offset),
  u4: (data, offset) => data.readUInt32LE(offset),
  u8: (data, offset) => Number(data.readBigUInt64LE(offset)),
  i1: (data, offset) => data.readInt8(offset),
  i2: (data, offset) => data.readInt16LE(offset),
  i4: (data, offset) => data.readInt32LE(offset),
  i8: (data, offset) => Number(data.readBigInt64LE(offset)),
}

/**
 * Reads every element of an array of any integer type. Values beyond 2^53 lose precision, but no token is that large.
 *
 * @throws NpyError if the type is not an integer type, or the array has more than 2^22 elements
 */
export function integers(array: NpyArray): number[] {
  const read = readers[array.dtype]
  if (read === undefined) throw new NpyError(`the array must have an integer type, not ${array.dtype}`)
  const width = Number(array.dtype.slice(1))
  const count = array.data.length / width
  if (count > MOST_INTEGERS) throw new NpyError(`the array has ${count} elements; the maximum is ${MOST_INTEGERS}`)
  return Array.from({ length: count }, (_, i) => read(array.data, i * width))
}

/**
 * The header of an array in format version 1. Any shape of up to three dimensions has a header of 128 bytes, so one that
 * grows can be filled in afterwards.
 */
export function npyHeader(dtype: '|u1' | '<u2' | '<i8', shape: readonly number[]): Buffer {
  const dimensions = shape.length === 1 ? `${shape[0]},` : shape.join(', ')
  const text = `{'descr': '${dtype}', 'fortran_order': False, 'shape': (${dimensions}), }`
  // The data must start at a multiple of 64; the header ends in a newline.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64
  const head = Buffer.alloc(length, ' ')
  magic.copy(head)
  head.writeUInt8(1, 6)
  head.writeUInt8(0, 7)
  head.writeUInt16LE(length - 10, 8)
  head.write(text, 10, 'latin1')
  head.write('\n', length - 1)
  return head
}

/**
 * Writes an array in format version 1.
 *
 * @param data the elements in C order, little-endian, in any number of pieces
 */
export function writeNpy(dtype: '|u1' | '<u2', shape: readonly number[], data: readonly Uint8Array[]): Buffer {
  return Buffer.concat([npyHeader(dtype, shape), ...data])
}
