import { crc32 } from 'node:zlib'
import type { Random } from '../tools/random.ts'

/** A piece of a file that states its own length, and where it states it. */
interface Chunk {
  start: number
  end: number
  /** Offset, size in bytes and byte order of the number that holds its length. */
  length: { at: number; bytes: 2 | 4; littleEndian: boolean }
}

type Mutation = (bytes: Buffer, random: Random, others: readonly Buffer[]) => Buffer

// Numbers that break decoders' arithmetic.
const edges = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]

const mutations: Mutation[] = [
  // Flipped bits, more of them in the header than elsewhere.
  (bytes, random) => {
    const copy = Buffer.from(bytes)
    const span = random.oneIn(2) ? Math.min(64, copy.length) : copy.length
    for (let i = random.below(8); i >= 0; i--) {
      const at = random.below(span)
      copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8))
    }
    return copy
  },
  // A number replaced by one at the limit of its type.
  (bytes, random) => {
    const copy = Buffer.from(bytes)
    if (copy.length >= 4) {
      const at = random.below(Math.min(copy.length - 3, random.oneIn(2) ? 64 : copy.length))
      writeNumber(copy, { at, bytes: random.oneIn(2) ? 2 : 4, littleEndian: random.oneIn(2) }, random.pick(edges))
    }
    return copy
  },
  (bytes, random) => bytes.subarray(0, random.below(bytes.length)),
  (bytes, random) => replaceRange(bytes, range(bytes, random), Buffer.alloc(0)),
  (bytes, random) => replaceRange(bytes, range(bytes, random), random.bytes(random.below(64))),
  (bytes, random) => {
    const piece = bytes.subarray(...range(bytes, random))
    const at = random.below(bytes.length)
    return replaceRange(bytes, [at, at], Buffer.concat(Array(1 + random.below(4)).fill(piece)))
  },
  // The head of one file and the tail of another.
  (bytes, random, others) => {
    const other = random.pick(others)
    return Buffer.concat([bytes.subarray(0, random.below(bytes.length)), other.subarray(random.below(other.length))])
  },
  // Another file's magic.
  (bytes, random, others) => {
    const length = 4 + random.below(12)
    return Buffer.concat([random.pick(others).subarray(0, length), bytes.subarray(length)])
  },
  // A chunk with a false length.
  (bytes, random) => {
    const copy = Buffer.from(bytes)
    const chunks = chunksOf(copy)
    if (chunks.length === 0) return copy
    const { length, start, end } = random.pick(chunks)
    writeNumber(copy, length, random.oneIn(2) ? random.pick(edges) : end - start + random.below(32) - 16)
    return copy
  },
  // A chunk repeated twice, or many times.
  (bytes, random) => {
    const chunks = chunksOf(bytes)
    if (chunks.length === 0) return bytes
    const { start, end } = random.pick(chunks)
    const at = random.pick(chunks).end
    const times = random.oneIn(8) ? 100 : 1
    return replaceRange(bytes, [at, at], Buffer.concat(Array(times).fill(bytes.subarray(start, end))))
  },
  (bytes, random) => {
    const chunks = chunksOf(bytes)
    if (chunks.length === 0) return bytes
    const { start, end } = random.pick(chunks)
    return replaceRange(bytes, [start, end], Buffer.alloc(0))
  },
  // A chunk of another file, or random bytes under its own name.
  (bytes, random, others) => {
    const chunks = chunksOf(bytes)
    const other = random.pick(others)
    const theirs = chunksOf(other)
    if (chunks.length === 0 || theirs.length === 0) return bytes
    const { start, end } = random.pick(theirs)
    const at = random.pick(chunks).start
    return replaceRange(bytes, [at, at], other.subarray(start, end))
  },
]

/**
 * A damaged copy of a file with one to three kinds of damage: flipped bits, changed numbers, pieces cut, repeated or
 * replaced by those of `others`, and, in formats with chunks, chunks with a false length, repeated, left out or moved. The
 * same for the same state of `random`.
 */
export function mutate(bytes: Buffer, random: Random, others: readonly Buffer[]): Buffer {
  let result = bytes
  for (let i = random.below(3); i >= 0; i--) result = random.pick(mutations)(result, random, others)
  // With correct checksums, so that the decoder gets to see the damage.
  return random.oneIn(2) ? withCheckSums(result) : result
}

/** Two offsets, the second at most a tenth of the file after the first. */
function range(bytes: Buffer, random: Random): [number, number] {
  const start = random.below(bytes.length)
  return [start, start + random.below(Math.ceil(bytes.length / 10) + 1)]
}

function replaceRange(bytes: Buffer, [start, end]: [number, number], piece: Buffer): Buffer {
  return Buffer.concat([bytes.subarray(0, start), piece, bytes.subarray(end)])
}

function writeNumber(bytes: Buffer, { at, bytes: width, littleEndian }: Chunk['length'], value: number): void {
  if (at + width > bytes.length) return
  const number = value >>> 0
  if (width === 2) littleEndian ? bytes.writeUInt16LE(number & 0xffff, at) : bytes.writeUInt16BE(number & 0xffff, at)
  else littleEndian ? bytes.writeUInt32LE(number, at) : bytes.writeUInt32BE(number, at)
}

/** Chunks of PNG, WebP and AVIF, segments of JPEG, entries of TIFF's first directory; none of other formats. */
function chunksOf(bytes: Buffer): Chunk[] {
  const magic = bytes.toString('latin1', 0, 12)
  if (magic.startsWith('\x89PNG')) return walk(bytes, 8, { lengthAt: 0, extra: 12 })
  if (magic.startsWith('RIFF')) return walk(bytes, 12, { lengthAt: 4, extra: 8, littleEndian: true, even: true })
  if (magic.slice(4, 8) === 'ftyp') return walk(bytes, 0, { lengthAt: 0, extra: 0 })
  if (magic.startsWith('\xff\xd8')) return walk(bytes, 2, { lengthAt: 2, extra: 2, bytes: 2 })
  if (magic.startsWith('II*')) return entriesOf(bytes)
  return []
}

interface Layout {
  lengthAt: number
  /** Bytes that the length does not include. */
  extra: number
  bytes?: 2 | 4
  littleEndian?: boolean
  /** Whether chunks start at even offsets. */
  even?: boolean
}

function walk(bytes: Buffer, from: number, layout: Layout): Chunk[] {
  const { lengthAt, extra, bytes: width = 4, littleEndian = false, even = false } = layout
  const chunks: Chunk[] = []
  for (let start = from; start + lengthAt + width <= bytes.length && chunks.length < 1000; ) {
    const at = start + lengthAt
    const length = littleEndian ? bytes.readUIntLE(at, width) : bytes.readUIntBE(at, width)
    const end = start + length + extra + (even ? length % 2 : 0)
    if (end <= start || end > bytes.length) break
    chunks.push({ start, end, length: { at, bytes: width, littleEndian } })
    start = end
  }
  return chunks
}

function entriesOf(bytes: Buffer): Chunk[] {
  const directory = bytes.length >= 8 ? bytes.readUInt32LE(4) : bytes.length
  if (directory + 2 > bytes.length) return []
  const count = Math.min(bytes.readUInt16LE(directory), Math.floor((bytes.length - directory - 2) / 12))
  return Array.from({ length: count }, (_, i) => {
    const start = directory + 2 + i * 12
    return { start, end: start + 12, length: { at: start + 4, bytes: 4, littleEndian: true } }
  })
}

function withCheckSums(bytes: Buffer): Buffer {
  if (!bytes.toString('latin1', 0, 4).startsWith('\x89PNG')) return bytes
  const copy = Buffer.from(bytes)
  for (const { start, end } of chunksOf(copy)) copy.writeUInt32BE(crc32(copy.subarray(start + 4, end - 4)), end - 4)
  return copy
}
