import { crc32, deflateSync, inflateSync } from 'node:zlib'
import { exifOf, orientationOf } from './exif.ts'

interface Chunk {
  type: string
  /** Where the chunk begins and ends in the file, and its data's bytes. */
  start: number
  end: number
  data: Buffer
}

/** What a PNG is, as far as it decides how the file is decoded. */
export interface Png {
  /** The file, rewritten where libvips would overlook what it says. */
  bytes: Buffer
  /** 16 bits per sample and a colour profile. */
  deepProfile: boolean
  grey: boolean
}

const signatureLength = 8
/** Most chunks that are looked at: pixels in pieces of 8 KiB are a gigabyte by then. */
const mostChunks = 131_072
/** Most bytes of EXIF in hexadecimal: a JPEG's block has up to 64 KiB, and some writers' are larger. */
const mostText = 2 ** 19
/** Most text chunks that are searched for EXIF. */
const mostTexts = 2
const code = (type: string) => Buffer.from(type, 'latin1').readUInt32BE()
const lookedAt = new Set(['eXIf', 'iCCP', 'IDAT'].map(code))
const textCodes = new Set(['tEXt', 'zTXt', 'iTXt'].map(code))
const idat = code('IDAT')

export function isPng(bytes: Buffer): boolean {
  return bytes.toString('latin1', 0, signatureLength) === '\x89PNG\r\n\x1a\n'
}

/**
 * Read what a PNG says of orientation. libvips knows `eXIf` before the pixels. EXIF behind the pixels or as text is put there.
 */
export function readPng(bytes: Buffer): Png {
  const chunks = chunksOf(bytes)
  const depth = bytes[24]
  const colourType = bytes[25] ?? 0
  const grey = colourType === 0 || colourType === 4
  const find = (type: string) => chunks.find((chunk) => chunk.type === type)
  const pixels = find('IDAT')
  if (pixels === undefined) return { bytes, deepProfile: false, grey }

  const dropped = new Set<Chunk>()
  const added: Buffer[] = []
  const exif = find('eXIf')
  const orientation = exif ? orientationOf(exif.data) : orientationOfText(chunks)
  const isSeen = exif !== undefined && exif.start < pixels.start && exif.data[0] !== 0x45
  if (orientation !== 1 && !isSeen) {
    if (exif) dropped.add(exif)
    added.push(chunkOf('eXIf', exifOf(orientation)))
  }
  const deepProfile = depth === 16 && find('iCCP') !== undefined
  if (dropped.size === 0 && added.length === 0) return { bytes, deepProfile, grey }
  return { bytes: rewritten(bytes, dropped, added), deepProfile, grey }
}

export function pngSize(bytes: Buffer): [width: number, height: number] | undefined {
  return bytes.length < 24 ? undefined : [bytes.readUInt32BE(16), bytes.readUInt32BE(20)]
}

/** A PNG with another profile. It must have none. */
export function withProfile(png: Buffer, profile: Buffer): Buffer {
  return rewritten(png, new Set(), [profileChunk(profile)])
}

/** The first chunk of each type looked at, and texts that may hold EXIF. Chunks that lie beyond the file end the list. */
function chunksOf(bytes: Buffer): Chunk[] {
  const chunks: Chunk[] = []
  const found = new Set<number>()
  let texts = 0
  let at = signatureLength
  for (let count = 0; count < mostChunks && at + 12 <= bytes.length; count++) {
    const length = bytes.readUInt32BE(at)
    const type = bytes.readUInt32BE(at + 4)
    const end = at + 12 + length
    if (end > bytes.length && type !== idat) break
    const isText = textCodes.has(type) && texts < mostTexts && keywordOf(bytes, at + 8) !== undefined
    if (isText || (lookedAt.has(type) && !found.has(type))) {
      found.add(type)
      texts += isText ? 1 : 0
      const data = bytes.subarray(at + 8, at + 8 + length)
      chunks.push({ type: bytes.toString('latin1', at + 4, at + 8), start: at, end, data })
    }
    at = end
  }
  return chunks
}

/** The keyword at the beginning of a text chunk's data, where it is one that stands before EXIF. */
function keywordOf(bytes: Buffer, at: number): string | undefined {
  return /^raw profile type (exif|app1)(?=\0)/i.exec(bytes.toString('latin1', at, at + 32))?.[0]
}

/** ImageMagick and exiv2 put EXIF into a text chunk: lines of its kind, its length in bytes, and its bytes in hexadecimal. */
function orientationOfText(chunks: Chunk[]): number {
  for (const chunk of chunks) {
    const keyword = keywordOf(chunk.data, 0)
    if (!chunk.type.endsWith('Xt') || keyword === undefined) continue
    const [, , ...hexadecimal] = textOf(chunk, keyword.length + 1)
      .trimStart()
      .split('\n')
    const orientation = orientationOf(Buffer.from(hexadecimal.join(''), 'hex'))
    if (orientation !== 1) return orientation
  }
  return 1
}

/** @param start where what follows the keyword begins */
function textOf({ type, data }: Chunk, start: number): string {
  try {
    const inflate = (bytes: Buffer) => inflateSync(bytes, { maxOutputLength: mostText }).toString('latin1')
    if (type === 'tEXt') return data.toString('latin1', start, start + mostText)
    if (type === 'zTXt') return inflate(data.subarray(start + 1))
    const language = data.indexOf(0, start + 2)
    const translated = data.indexOf(0, language + 1)
    if (language < 0 || translated < 0) return ''
    const text = data.subarray(translated + 1)
    return data[start] === 1 ? inflate(text) : text.toString('latin1', 0, mostText)
  } catch {
    return ''
  }
}

/** Without some chunks, with others behind the header. */
function rewritten(bytes: Buffer, dropped: Set<Chunk>, added: Buffer[]): Buffer {
  const headerEnd = signatureLength + 25
  const parts = [bytes.subarray(0, headerEnd), ...added]
  let from = headerEnd
  for (const { start, end } of [...dropped].sort((a, b) => a.start - b.start)) {
    parts.push(bytes.subarray(from, start))
    from = end
  }
  return Buffer.concat([...parts, bytes.subarray(from)])
}

function profileChunk(profile: Buffer): Buffer {
  return chunkOf('iCCP', Buffer.concat([Buffer.from('profile\0\0', 'latin1'), deflateSync(profile)]))
}

function chunkOf(type: string, data: Buffer): Buffer {
  const chunk = Buffer.alloc(12 + data.length)
  chunk.writeUInt32BE(data.length)
  chunk.write(type, 4, 'latin1')
  data.copy(chunk, 8)
  chunk.writeUInt32BE(crc32(chunk.subarray(4, 8 + data.length)), 8 + data.length)
  return chunk
}
