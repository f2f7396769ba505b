import { damaged, kindNotTaken } from './image-error.ts'

/** The properties of a TIFF's first picture that decide how it is decoded. */
export interface Tiff {
  /** Samples are 32-bit floating point numbers, 0 to 1. */
  float: boolean
  /** The last band is neither colour nor alpha. */
  extraBand: boolean
  /** 16 bits per sample, grey or RGB. */
  deep: boolean
  grey: boolean
  profile?: Buffer
}

const tags = {
  subfileType: 254,
  width: 256,
  height: 257,
  bits: 258,
  compression: 259,
  photometric: 262,
  make: 271,
  samples: 277,
  subDirectories: 330,
  inkSet: 332,
  extraSamples: 338,
  sampleFormat: 339,
  subsampling: 530,
  profile: 34675,
  dngVersion: 50706,
}
const known = new Set(Object.values(tags))

/** Size of a value of each field type, in bytes. */
const sizes: Record<number, number> = { 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8 }
const bigSizes: Record<number, number> = { ...sizes, 13: 4, 16: 8, 17: 8, 18: 8 }

/** Maximum number of directories searched for a camera's raw picture: they may form a loop. */
const mostDirectories = 16
/** Maximum number of fields per directory. */
const mostFields = 4096
/** Maximum number of values read per field, except for the profile. */
const mostValues = 16

const readByLibrary = new Set([1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50001])
const compressions: Record<number, string> = {
  6: 'old-style JPEG',
  9: 'JBIG',
  10: 'JBIG',
  32766: 'NeXT',
  32771: 'CCITT RLE-W',
  32809: 'ThunderScan',
  32909: 'PixarLog',
  33003: 'JPEG 2000',
  33004: 'JPEG 2000',
  33005: 'JPEG 2000',
  34661: 'JBIG',
  34676: 'SGI LogLuv',
  34677: 'SGI LogLuv',
  34712: 'JPEG 2000',
  34887: 'LERC',
  34892: 'lossy JPEG (DNG)',
  34925: 'LZMA',
  34933: 'PNG',
  34934: 'JPEG XR',
  50000: 'Zstandard',
  50002: 'JPEG XL',
  52546: 'JPEG XL',
}
const colours: Record<number, string> = {
  4: 'a transparency mask',
  8: 'CIE L*a*b* colour',
  9: 'ICC L*a*b* colour',
  10: 'ITU L*a*b* colour',
  32844: 'CIE Log L colour',
  32845: 'CIE Log Luv colour',
}
const sampleKinds: Record<number, string> = {
  2: 'signed integer',
  3: 'floating-point',
  5: 'complex integer',
  6: 'complex floating-point',
}
const [white, black, rgb, palette, cmyk, ycbcr, cfa, linearRaw] = [0, 1, 2, 3, 5, 6, 32803, 34892]
const [unsigned, float, undefinedFormat] = [1, 3, 4]

/** For YCbCr outside JPEG. Without subsampling libvips treats it as RGB; the format's default seldom matches the file. */
const subsamplings = new Set(['2 by 1', '1 by 2', '2 by 2', '4 by 1', '4 by 2', '4 by 4'])

export function isTiff(bytes: Buffer): boolean {
  const start = bytes.toString('latin1', 0, 4)
  return start === 'II*\0' || start === 'MM\0*' || start === 'II+\0' || start === 'MM\0+'
}

/**
 * Reads the kind of the first picture of a TIFF or BigTIFF. libvips silently decodes some kinds to wrong pictures, so only
 * those that it decodes correctly pass.
 *
 * @throws ImageError when its kind is not supported, or when its directory cannot be read
 */
export function readTiff(bytes: Buffer): Tiff {
  const reader = new Reader(bytes)
  const first = reader.directory(reader.start)
  if (first === undefined) throw damaged()
  const raw = rawKind(reader, first, bytes)
  if (raw !== undefined) throw kindNotTaken(raw)

  const photometric = first.number(tags.photometric)
  const samples = first.number(tags.samples) ?? 1
  const bits = first.numbers(tags.bits)
  const formats = first.numbers(tags.sampleFormat)
  const [depth = 1] = bits
  const [format = unsigned] = formats
  const compression = first.number(tags.compression) ?? 1
  const extras = first.numbers(tags.extraSamples)
  const refuse = (what: string) => kindNotTaken(`a TIFF with ${what}`)

  if (!readByLibrary.has(compression)) {
    throw refuse(`${compressions[compression] ?? `unknown (${compression})`} compression`)
  }
  if (new Set(bits).size > 1 || new Set(formats).size > 1) throw refuse('samples of different kinds')
  const isFloat = format === float
  if (format !== unsigned && format !== undefinedFormat && !(isFloat && depth === 32)) {
    throw refuse(`${depth}-bit ${sampleKinds[format] ?? `unknown (format ${format})`} samples`)
  }
  if (photometric !== undefined && colours[photometric] !== undefined) throw refuse(colours[photometric])

  const isGrey = photometric === white || photometric === black
  const isDepthTaken = {
    grey: isFloat ? depth === 32 : samples === 1 ? [1, 2, 4, 8, 16].includes(depth) : depth === 8 || depth === 16,
    palette: [1, 2, 4, 8, 16].includes(depth),
    colour: isFloat ? depth === 32 : depth === 8 || depth === 16,
  }[isGrey ? 'grey' : photometric === palette ? 'palette' : 'colour']
  if (!isDepthTaken) throw refuse(`${depth}-bit ${isFloat ? 'floating-point' : 'unsigned integer'} samples`)
  if (isFloat && !(photometric === black || photometric === rgb)) {
    throw refuse('floating-point samples that are neither RGB nor grey with black as 0')
  }

  const alpha = extras[0] === 1 || extras[0] === 2
  const colour = { [white]: 1, [black]: 1, [rgb]: 3, [palette]: 1, [cmyk]: 4, [ycbcr]: 3 }[photometric ?? black]
  if (colour === undefined) throw refuse(`an unknown colour space (photometric interpretation ${photometric})`)
  const extra = samples - colour
  const extraTaken = extra === 0 || (extra === 1 && (isGrey || photometric === rgb || (photometric === cmyk && alpha)))
  if (!extraTaken || (isFloat && extra === 1 && !alpha)) {
    const kind =
      { [rgb]: 'RGB', [palette]: 'palette', [cmyk]: 'CMYK', [ycbcr]: 'YCbCr' }[photometric ?? black] ?? 'grey'
    throw refuse(`${samples} ${isFloat ? 'floating-point ' : ''}samples per pixel (${kind})`)
  }
  if (photometric === cmyk && (first.number(tags.inkSet) ?? 1) !== 1) throw refuse('inks other than CMYK')
  if (photometric === ycbcr && compression !== 7) {
    const subsampling = first.numbers(tags.subsampling).join(' by ')
    if (depth !== 8 || !subsamplings.has(subsampling)) {
      throw refuse(`YCbCr colour with ${subsampling || 'unknown'} subsampling outside JPEG`)
    }
  }
  const profile = first.bytes(tags.profile)
  return {
    ...{ float: isFloat, extraBand: extra === 1 && !alpha, deep: depth === 16 && (isGrey || photometric === rgb) },
    ...{ grey: isGrey, ...(profile && { profile }) },
  }
}

/** Width and height of the first picture, if it states them. */
export function tiffSize(bytes: Buffer): [width: number, height: number] | undefined {
  const reader = new Reader(bytes)
  const first = reader.directory(reader.start)
  const [width, height] = [first?.number(tags.width), first?.number(tags.height)]
  return width && height ? [width, height] : undefined
}

/** The kind of camera raw, or the thumbnail, that the first directory is part of. */
function rawKind(reader: Reader, first: Directory, bytes: Buffer): string | undefined {
  if (first.has(tags.dngVersion)) return 'a camera raw (DNG)'
  if (bytes.toString('latin1', 8, 10) === 'CR' && !reader.big) return 'a camera raw (CR2)'
  const make = (first.bytes(tags.make)?.toString('latin1') ?? '').toUpperCase()
  const others: Directory[] = []
  const offsets = [...first.numbers(tags.subDirectories), first.next]
  while (offsets.length > 0 && others.length < mostDirectories) {
    const directory = reader.directory(offsets.shift() ?? 0)
    if (directory === undefined) continue
    others.push(directory)
    offsets.push(...directory.numbers(tags.subDirectories), directory.next)
  }
  const isSensor = (directory: Directory) => {
    const photometric = directory.number(tags.photometric)
    return photometric === cfa || photometric === linearRaw
  }
  if ([first, ...others].some(isSensor)) {
    const name = Object.entries({ NIKON: 'NEF', SONY: 'ARW', PENTAX: 'PEF', SAMSUNG: 'SRW', HASSELBLAD: '3FR' }).find(
      ([start]) => make.startsWith(start),
    )
    return name === undefined ? 'a camera raw' : `a camera raw (${name[1]})`
  }
  const isThumbnail = (directory: Directory) => ((directory.number(tags.subfileType) ?? 0) & 1) === 1
  return isThumbnail(first) && others.some((other) => !isThumbnail(other))
    ? 'a TIFF whose first picture is a thumbnail'
    : undefined
}

interface Field {
  type: number
  count: number
  /** Where the values begin. */
  at: number
}

/** The fields of one directory. Nothing is read from outside the file. */
class Directory {
  readonly next: number
  readonly #reader: Reader
  readonly #fields: Map<number, Field>

  constructor(reader: Reader, fields: Map<number, Field>, next: number) {
    this.#reader = reader
    this.#fields = fields
    this.next = next
  }

  has(tag: number): boolean {
    return this.#fields.has(tag)
  }

  /** A field's first value, if it is a whole number. */
  number(tag: number): number | undefined {
    return this.numbers(tag)[0]
  }

  numbers(tag: number): number[] {
    const field = this.#fields.get(tag)
    return field === undefined ? [] : this.#reader.numbers(field)
  }

  bytes(tag: number): Buffer | undefined {
    const field = this.#fields.get(tag)
    return field && this.#reader.bytes.subarray(field.at, field.at + field.count * (sizes[field.type] ?? 0))
  }
}

class Reader {
  readonly bytes: Buffer
  readonly big: boolean
  readonly start: number
  readonly #little: boolean

  constructor(bytes: Buffer) {
    this.bytes = bytes
    this.#little = bytes[0] === 0x49
    this.big = this.#u16(2) === 43
    this.start = this.big ? this.#u64(8) : this.#u32(4)
  }

  /** @returns undefined if there is none, or if it extends beyond the file */
  directory(at: number): Directory | undefined {
    const [countSize, fieldSize, offsetSize] = this.big ? [8, 20, 8] : [2, 12, 4]
    if (at === 0 || at + countSize > this.bytes.length) return undefined
    const count = this.big ? this.#u64(at) : this.#u16(at)
    const end = at + countSize + count * fieldSize
    if (count === 0 || count > mostFields || end > this.bytes.length) return undefined
    const fields = new Map<number, Field>()
    for (let entry = at + countSize; entry < end; entry += fieldSize) {
      const tag = this.#u16(entry)
      if (!known.has(tag) || fields.has(tag)) continue
      const type = this.#u16(entry + 2)
      const values = this.big ? this.#u64(entry + 4) : this.#u32(entry + 4)
      const size = (bigSizes[type] ?? 0) * values
      const inline = entry + (this.big ? 12 : 8)
      const place = size <= offsetSize ? inline : this.big ? this.#u64(inline) : this.#u32(inline)
      if (size > 0 && place + size <= this.bytes.length) fields.set(tag, { type, count: values, at: place })
    }
    const next = end + offsetSize > this.bytes.length ? 0 : this.big ? this.#u64(end) : this.#u32(end)
    return new Directory(this, fields, next)
  }

  numbers({ type, count, at }: Field): number[] {
    const size = bigSizes[type] ?? 0
    const read = { 1: this.#u8, 3: this.#u16, 4: this.#u32, 7: this.#u8, 13: this.#u32, 16: this.#u64, 18: this.#u64 }[
      type
    ]
    return read === undefined ? [] : Array.from({ length: Math.min(count, mostValues) }, (_, i) => read(at + i * size))
  }

  readonly #u8 = (at: number) => this.bytes.readUInt8(at)
  readonly #u16 = (at: number) => (this.#little ? this.bytes.readUInt16LE(at) : this.bytes.readUInt16BE(at))
  readonly #u32 = (at: number) => (this.#little ? this.bytes.readUInt32LE(at) : this.bytes.readUInt32BE(at))
  readonly #u64 = (at: number) => Number(this.#little ? this.bytes.readBigUInt64LE(at) : this.bytes.readBigUInt64BE(at))
}
