import { colourOf, isSrgb } from './cicp.ts'
import { profileOf } from './icc.ts'
import { kindNotTaken, notTaken } from './image-error.ts'

/** The properties of an AVIF that decide how it is decoded. */
export interface Avif {
  /** The file, with a brand that libvips knows. */
  bytes: Buffer
  /** 10 or 12 bits per sample. */
  deep: boolean
  /** A profile that libvips sees. */
  hasProfile: boolean
  /** The colour space, if code points name it, no profile does, and it is not sRGB. */
  profile?: Buffer
}

interface Box {
  type: string
  /** The content without the box header. */
  content: Buffer
}

/** Maximum number of boxes read in one parent: a still picture of many tiles has a few hundred. */
const mostBoxes = 4096
/** Maximum number of items whose properties are read. */
const mostItems = 65_536
/** Maximum size of the list of brands, in bytes. */
const mostBrands = 4096

/** Brands that identify the codec of a HEIF file. Other brands do not. */
const codecs: Record<string, string> = {
  ...{ heic: 'HEIC', heix: 'HEIC', heim: 'HEIC', heis: 'HEIC', hevc: 'HEIC', hevx: 'HEIC', hevm: 'HEIC', hevs: 'HEIC' },
  ...{ avci: 'HEIF with AVC', avcs: 'HEIF with AVC', jpeg: 'HEIF with JPEG', jpgs: 'HEIF with JPEG' },
  ...{ j2ki: 'HEIF with JPEG 2000', j2is: 'HEIF with JPEG 2000', vvic: 'HEIF with VVC', vvis: 'HEIF with VVC' },
  ...{
    'crx ': 'a camera raw (CR3)',
    isom: 'a video',
    iso2: 'a video',
    mp41: 'a video',
    mp42: 'a video',
    'qt  ': 'a video',
  },
}
const av1Brands = ['avif', 'avis', 'avio']
const neutralBrands = ['mif1', 'mif2', 'mif3', 'msf1', 'miaf', 'MiHB', 'MA1A', 'MA1B']
const itemCodecs: Record<string, string> = {
  ...{ hvc1: 'HEIC', hev1: 'HEIC', avc1: 'HEIF with AVC', jpeg: 'HEIF with JPEG', j2k1: 'HEIF with JPEG 2000' },
  ...{ vvc1: 'HEIF with VVC', unci: 'HEIF without compression', mski: 'HEIF without compression' },
}

/** Whether a file begins with a list of brands, as HEIF files and MP4 videos do. */
export function hasBrands(bytes: Buffer): boolean {
  return bytes.toString('latin1', 4, 8) === 'ftyp'
}

/**
 * Finds out what a file with brands is. It is an AVIF if any of its brands says so, in any position, or the codec of its items.
 *
 * @throws ImageError when it is another format, or when its kind of colour is not supported
 */
export function readAvif(bytes: Buffer): Avif {
  const end = Math.min(bytes.readUInt32BE(0), bytes.length, mostBrands)
  const brands: string[] = [bytes.toString('latin1', 8, 12)]
  for (let at = 16; at + 4 <= end; at += 4) brands.push(bytes.toString('latin1', at, at + 4))

  const meta = boxes(bytes).find(({ type }) => type === 'meta')
  const inside = meta ? boxes(meta.content.subarray(4)) : []
  const items = itemTypes(inside)
  const other = items.map((type) => itemCodecs[type]).find((name) => name !== undefined)
  const isAv1 = items.includes('av01') || (other === undefined && brands.some((brand) => av1Brands.includes(brand)))
  if (!isAv1) {
    const name = other ?? brands.map((brand) => codecs[brand]).find((codec) => codec !== undefined)
    if (name !== undefined) throw notTaken(name)
    if (!brands.some((brand) => neutralBrands.includes(brand)))
      throw notTaken(`a file of brand ${printable(brands[0])}`)
    if (items.length > 0) throw notTaken('HEIF without AV1')
  }
  if (meta === undefined && boxes(bytes).some(({ type }) => type === 'moov')) {
    throw kindNotTaken('an AVIF with a sequence and no still picture')
  }
  const references = boxes(inside.find(({ type }) => type === 'iref')?.content.subarray(4) ?? Buffer.alloc(0))
  if (references.some(({ type }) => type === 'prem')) throw kindNotTaken('an AVIF with premultiplied alpha')
  const properties = propertiesOf(inside)
  const deep = properties.some(({ type, content }) => type === 'av1C' && ((content[2] ?? 0) & 0x40) !== 0)
  const colours = properties.filter(({ type }) => type === 'colr').map(({ content }) => content)
  const kindOf = (content: Buffer) => content.toString('latin1', 0, 4)
  const hasProfile = colours.some((content) => ['prof', 'rICC'].includes(kindOf(content)))
  const points = colours.find((content) => kindOf(content) === 'nclx' && content.length >= 10)
  const file = { bytes: underKnownBrand(bytes, brands, end), deep, hasProfile }
  if (hasProfile || points === undefined) return file

  const colour = colourOf(points.readUInt16BE(4), points.readUInt16BE(6))
  if (typeof colour === 'string') throw kindNotTaken(`an AVIF with ${colour}`)
  const profile = isSrgb(colour) ? undefined : profileOf(colour.primaries, colour.transfer, false)
  return profile === undefined ? file : { ...file, profile }
}

/**
 * libvips looks at the first brand only, and reads any file with a sequence brand as a video. Every file that gets here is
 * decoded from its still picture, so the copy gets only the brand for that.
 */
function underKnownBrand(bytes: Buffer, brands: string[], end: number): Buffer {
  const isKnown = brands[0] === 'avif' && brands.includes('mif1')
  if (isKnown && !brands.includes('avis') && !brands.includes('msf1')) return bytes
  const copy = Buffer.from(bytes)
  copy.write('avif', 8, 'latin1')
  for (let at = 16; at + 4 <= end; at += 4) copy.write('mif1', at, 'latin1')
  return copy
}

function boxes(bytes: Buffer): Box[] {
  const found: Box[] = []
  let at = 0
  while (at + 8 <= bytes.length && found.length < mostBoxes) {
    const short = bytes.readUInt32BE(at)
    const head = short === 1 ? 16 : 8
    if (at + head > bytes.length) break
    const size = short === 1 ? Number(bytes.readBigUInt64BE(at + 8)) : short === 0 ? bytes.length - at : short
    if (size < head) break
    found.push({ type: bytes.toString('latin1', at + 4, at + 8), content: bytes.subarray(at + head, at + size) })
    at += size
  }
  return found
}

function itemTypes(meta: Box[]): string[] {
  const list = meta.find(({ type }) => type === 'iinf')?.content
  if (list === undefined || list.length < 6) return []
  // A full box: version, flags, then the number of items in 2 or 4 bytes.
  return boxes(list.subarray(list[0] === 0 ? 6 : 8)).flatMap(({ type, content }) => {
    const version = content[0] ?? 0
    if (type !== 'infe' || version < 2) return []
    const at = version === 2 ? 8 : 10
    return [content.toString('latin1', at, at + 4)]
  })
}

/** The properties of the main picture: what belongs to its thumbnail, its alpha or its gain map says nothing of it. */
function propertiesOf(meta: Box[]): Box[] {
  const container = boxes(meta.find(({ type }) => type === 'iprp')?.content ?? Buffer.alloc(0))
  const properties = boxes(container.find(({ type }) => type === 'ipco')?.content ?? Buffer.alloc(0))
  const primary = meta.find(({ type }) => type === 'pitm')?.content
  const id = primary === undefined || primary.length < 6 ? undefined : primary.readUIntBE(4, primary[0] === 0 ? 2 : 4)
  const indices = new Set(
    container.filter(({ type }) => type === 'ipma').flatMap(({ content }) => associations(content, id)),
  )
  // The tiles of a grid hold the codec's configuration, not the picture that they make up.
  return properties.filter(({ type }, i) => type === 'av1C' || indices.has(i + 1))
}

/** Which properties, counted from 1, an item has. */
function associations(box: Buffer, wanted: number | undefined): number[] {
  if (box.length < 8) return []
  const idSize = box[0] === 0 ? 2 : 4
  const isWide = ((box[3] ?? 0) & 1) === 1
  const indexSize = isWide ? 2 : 1
  let at = 8
  for (let entry = Math.min(box.readUInt32BE(4), mostItems); entry > 0 && at + idSize < box.length; entry--) {
    const id = box.readUIntBE(at, idSize)
    const count = box[at + idSize] ?? 0
    at += idSize + 1
    if (id === wanted && at + count * indexSize <= box.length) {
      return Array.from(
        { length: count },
        (_, i) => box.readUIntBE(at + i * indexSize, indexSize) & (isWide ? 0x7fff : 0x7f),
      )
    }
    at += count * indexSize
  }
  return []
}

const printable = (brand = '') => JSON.stringify(brand.replace(/[^ -~]/g, '?'))
