import { crc32, deflateSync, inflateSync } from 'node:zlib'
import { colourOf, isSrgb } from './cicp.ts'
import { exifOf, orientationOf } from './exif.ts'
import { type Primaries, profileOf, srgbPrimaries, type Transfer } from './icc.ts'
import { kindNotTaken } from './image-error.ts'

interface Chunk {
  type: string
  /** Where the chunk begins and ends in the file, and its data's bytes. */
  start: number
  end: number
  data: Buffer
}

/** The properties of a PNG that decide how it is decoded. */
export interface Png {
  /** The file, rewritten if libvips would overlook some of its metadata. */
  bytes: Buffer
  /** 16 bits per sample and a colour profile. */
  deepProfile: boolean
  grey: boolean
}

const signatureLength = 8
/** Maximum number of chunks read: enough for a gigabyte of pixels in chunks of 8 KiB. */
const mostChunks = 131_072
/** Maximum size of EXIF in hexadecimal, in bytes: a JPEG's block has up to 64 KiB, and some writers' are larger. */
const mostText = 2 ** 19
/** Maximum number of text chunks searched for EXIF. */
const mostTexts = 2
/** Chunks that name the colour space. */
const colourChunks = new Set(['cICP', 'iCCP', 'sRGB', 'gAMA', 'cHRM'])
const code = (type: string) => Buffer.from(type, 'latin1').readUInt32BE()
const lookedAt = new Set([...colourChunks, 'eXIf', 'IDAT'].map(code))
const textCodes = new Set(['tEXt', 'zTXt', 'iTXt'].map(code))
const idat = code('IDAT')

export function isPng(bytes: Buffer): boolean {
  return bytes.toString('latin1', 0, signatureLength) === '\x89PNG\r\n\x1a\n'
}

/**
 * Reads a PNG's orientation and colour. libvips reads `eXIf` before the pixels and `iCCP`. Metadata that is elsewhere
 * is moved there: EXIF after the pixels or as text, and colour from `cICP` or from `gAMA` and `cHRM`.
 *
 * @throws ImageError when its kind of colour is not supported
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
  const beforePixels = chunks.filter((chunk) => chunk.start < pixels.start && colourChunks.has(chunk.type))
  const profile = profileBeside(beforePixels, grey)
  if (profile !== undefined) {
    for (const chunk of beforePixels) dropped.add(chunk)
    if (profile !== 'srgb') added.push(profileChunk(profile))
  }
  const exif = find('eXIf')
  const orientation = exif ? orientationOf(exif.data) : orientationOfText(chunks)
  const isSeen = exif !== undefined && exif.start < pixels.start && exif.data[0] !== 0x45
  if (orientation !== 1 && !isSeen) {
    if (exif) dropped.add(exif)
    added.push(chunkOf('eXIf', exifOf(orientation)))
  }
  const deepProfile = depth === 16 && (profile === undefined ? find('iCCP') !== undefined : profile !== 'srgb')
  if (dropped.size === 0 && added.length === 0) return { bytes, deepProfile, grey }
  return { bytes: rewritten(bytes, dropped, added), deepProfile, grey }
}

export function pngSize(bytes: Buffer): [width: number, height: number] | undefined {
  return bytes.length < 24 ? undefined : [bytes.readUInt32BE(16), bytes.readUInt32BE(20)]
}

/** Adds a profile to a PNG, which must have none. */
export function withProfile(png: Buffer, profile: Buffer): Buffer {
  return rewritten(png, new Set(), [profileChunk(profile)])
}

/** The first chunk of each relevant type, and texts that may hold EXIF. A chunk that ends beyond the file ends the list. */
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

/** The keyword at the beginning of a text chunk's data, if it is one that marks EXIF. */
function keywordOf(bytes: Buffer, at: number): string | undefined {
  return /^raw profile type (exif|app1)(?=\0)/i.exec(bytes.toString('latin1', at, at + 32))?.[0]
}

/**
 * The profile to put into the file, by the specification's precedence: cICP, iCCP, sRGB, then gAMA and cHRM.
 *
 * @param chunks the chunks before the pixels that name a colour space
 * @returns undefined if the file needs no change, `srgb` if its colour chunks must be dropped
 */
function profileBeside(chunks: Chunk[], grey: boolean): Buffer | 'srgb' | undefined {
  const find = (type: string, length: number) =>
    chunks.find(({ type: t, data }) => t === type && data.length >= length)?.data
  const cicp = find('cICP', 4)
  if (cicp !== undefined && !(cicp[0] === 2 && cicp[1] === 2)) {
    const [primariesCode = 0, transferCode = 0, matrix, fullRange] = cicp
    const refuse = (what: string) => kindNotTaken(`a PNG with ${what}`)
    if (matrix !== 0) throw refuse('colour as luma and chroma (cICP)')
    if (fullRange !== 1) throw refuse('narrow-range colour (cICP)')
    const colour = colourOf(primariesCode, transferCode)
    if (typeof colour === 'string') throw refuse(colour)
    if (isSrgb(colour)) return chunks.some(({ type }) => type === 'iCCP') ? 'srgb' : undefined
    return profileOf(colour.primaries, colour.transfer, grey)
  }
  if (find('iCCP', 0) !== undefined || find('sRGB', 0) !== undefined) return undefined

  const gamma = find('gAMA', 4)?.readUInt32BE()
  const chromaticities = find('cHRM', 32)
  // A gamma below a tenth or above ten is a mistake.
  const transfer: Transfer = gamma && gamma >= 10_000 && gamma <= 1_000_000 ? { gamma: 100_000 / gamma } : 'srgb'
  const primaries = chromaticities && primariesOf(chromaticities)
  const hasSrgbPrimaries = primaries === undefined || areSrgb(primaries)
  const hasSrgbTransfer = transfer === 'srgb' || Math.abs(transfer.gamma - 2.2) < 0.02
  if (hasSrgbPrimaries && hasSrgbTransfer) return undefined
  return profileOf(hasSrgbPrimaries ? srgbPrimaries : primaries, transfer, grey)
}

function primariesOf(data: Buffer): Primaries | undefined {
  const [whiteX, whiteY, redX, redY, greenX, greenY, blueX, blueY] = Array.from(
    { length: 8 },
    (_, i) => data.readUInt32BE(i * 4) / 100_000,
  ) as [number, number, number, number, number, number, number, number]
  const primaries: Primaries = {
    ...{ white: [whiteX, whiteY], red: [redX, redY] },
    ...{ green: [greenX, greenY], blue: [blueX, blueY] },
  }
  // Zeros, a line or a point do not form a colour space and are ignored.
  return profileOf(primaries, 'srgb', false) && primaries
}

/** Equal up to rounding: some writers keep three digits. */
function areSrgb(primaries: Primaries): boolean {
  const [ours, srgb] = [primaries, srgbPrimaries].map(({ white, red, green, blue }) => [white, red, green, blue].flat())
  return ours?.every((value, i) => Math.abs(value - (srgb?.[i] ?? 0)) < 0.002) ?? false
}

/** ImageMagick and exiv2 write EXIF as a text chunk: a line with its kind, one with its length, and its bytes in hexadecimal. */
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

/** @param start of what follows the keyword */
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

/** Removes some chunks and inserts others after the header. */
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
