/**
 * NumPy's .npy format, as much of it as crosses this service: C-ordered arrays of unsigned bytes and integers in,
 * unsigned integers out. Own code because the package for it (npyjs) reads past what it was given: it checks neither
 * the length of the data nor byte order, and guesses at malformed headers.
 */

/** The bytes are no array that this service takes. `message` says why, to whoever wrote them. */
export class NpyError extends Error {}

export interface NpyArray {
  /** NumPy's type string without byte order: u1, i8, ... */
  dtype: string
  shape: number[]
  /** The elements, C order, little-endian. A view of the bytes that were parsed. */
  data: Buffer
}

// NumPy's own bound on a header, and on dimensions. More tokens than a JSON body holds would take seconds to read.
const MOST_HEADER_BYTES = 10_000
const MOST_DIMENSIONS = 64
const MOST_INTEGERS = 2 ** 22

const magic = Buffer.from('\x93NUMPY', 'latin1')
const header =
  /^\{\s*'descr':\s*'([<>|=])([a-zA-Z])(\d+)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d,\s]*)\),?\s*\}\s*$/

/**
 * Parses one C-ordered little-endian array of format version 1, 2 or 3.
 *
 * @throws NpyError on anything else, also when there are more or fewer bytes than the shape says
 */
export function parseNpy(bytes: Buffer): NpyArray {
  if (bytes.length < 12 || !bytes.subarray(0, 6).equals(magic)) throw new NpyError('the body is no .npy file')
  const version = bytes.readUInt8(6)
  if (version < 1 || version > 3) throw new NpyError(`.npy format version ${version} is not known`)
  const start = version === 1 ? 10 : 12
  const end = start + (version === 1 ? bytes.readUInt16LE(8) : bytes.readUInt32LE(8))
  if (end - start > MOST_HEADER_BYTES) throw new NpyError(`the .npy header is larger than ${MOST_HEADER_BYTES} bytes`)
  if (end > bytes.length) throw new NpyError('the .npy header is cut off')
  const text = bytes.toString('latin1', start, end)
  if (/'descr':\s*'\|?O/.test(text)) throw new NpyError('arrays of Python objects are not taken')
  const [, order = '', kind = '', width = '', fortran = '', dimensions = ''] = header.exec(text) ?? []
  if (kind === '') throw new NpyError('the .npy header does not describe a plain array')
  if (order === '>')
    throw new NpyError("big-endian arrays are not taken; use array.astype(array.dtype.newbyteorder('<'))")
  if (fortran === 'True') throw new NpyError('Fortran-ordered arrays are not taken; use numpy.ascontiguousarray')
  const shape = dimensions
    .split(',')
    .filter((part) => part.trim() !== '')
    .map(Number)
  const expected = shape.reduce((product, n) => product * n, Number(width))
  if (shape.length > MOST_DIMENSIONS || !shape.every(Number.isSafeInteger) || !Number.isSafeInteger(expected))
    throw new NpyError('the .npy shape makes no sense')
  if (bytes.length - end !== expected) {
    throw new NpyError(`the .npy header announces ${expected} bytes of data and ${bytes.length - end} follow`)
  }
  return { dtype: kind + width, shape, data: bytes.subarray(end) }
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
 * Reads every element of an array of any integer type. Those beyond 2^53 lose precision, which no token has.
 *
 * @throws NpyError if the type is no integer, or there are more elements than anybody has tokens
 */
export function integers(array: NpyArray): number[] {
  const read = readers[array.dtype]
  if (read === undefined) throw new NpyError(`the array's type has to be an integer, not ${array.dtype}`)
  const width = Number(array.dtype.slice(1))
  const count = array.data.length / width
  if (count > MOST_INTEGERS) throw new NpyError(`the array has ${count} elements; ${MOST_INTEGERS} it may have`)
  return Array.from({ length: count }, (_, i) => read(array.data, i * width))
}

/**
 * Writes an array in format version 1.
 *
 * @param data the elements in C order, little-endian, in as many pieces as suits
 */
export function writeNpy(dtype: '|u1' | '<u2', shape: number[], data: readonly Uint8Array[]): Buffer {
  const dimensions = shape.length === 1 ? `${shape[0]},` : shape.join(', ')
  const text = `{'descr': '${dtype}', 'fortran_order': False, 'shape': (${dimensions}), }`
  // The data has to start at a multiple of 64; the header ends in a newline.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64
  const head = Buffer.alloc(length, ' ')
  magic.copy(head)
  head.writeUInt8(1, 6)
  head.writeUInt8(0, 7)
  head.writeUInt16LE(length - 10, 8)
  head.write(text, 10, 'latin1')
  head.write('\n', length - 1)
  return Buffer.concat([head, ...data])
}
