import { crc32, deflateSync, gzipSync } from 'node:zlib'
import sharp from 'sharp'
import { writeNpy } from '../src/formats/npy.ts'
import { fixture } from './photos.ts'

/** A file that must be refused, or cost no more than any other. */
export interface HostileFile {
  name: string
  bytes: Buffer<ArrayBuffer>
  /** The path and the media type to send it with; by default /encode and JPEG. */
  path?: '/encode' | '/decode'
  type?: string
}

const SIDE = 7000

/**
 * Files of other kinds, which must be refused as images and never interpreted.
 *
 * @param url an address that the files contain if their format allows it: nothing may request it
 */
export function impostors(url: string): HostileFile[] {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="${url}/svg.png" width="9" height="9"/></svg>`
  const entity = `<!DOCTYPE svg [<!ENTITY e SYSTEM "${url}/entity"><!ENTITY % p SYSTEM "${url}/dtd"> %p;]>`
  const include = `<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="${url}/include" parse="text"/>`
  const box = (brand: string) => `\0\0\0\x18ftyp${brand}\0\0\0\0${brand}mif1`
  const texts: Record<string, string> = {
    SVG: svg,
    'SVG behind a declaration and a comment': `<?xml version="1.0"?>\n<!-- ${'-'.repeat(2000)} -->${svg}`,
    'SVG with an external entity': `<?xml version="1.0"?>${entity}<svg xmlns="http://www.w3.org/2000/svg"><text>&e;</text></svg>`,
    'SVG that includes': `<svg xmlns="http://www.w3.org/2000/svg">${include}</svg>`,
    'SVG with a style sheet': `<?xml-stylesheet href="${url}/style.css"?>${svg}`,
    'SVG behind a byte order mark': `\xef\xbb\xbf${svg}`,
    XML: `<?xml version="1.0"?>${entity.replace('svg', 'a')}<a>&e;</a>`,
    HTML: `<!doctype html><img src="${url}/html.png"><script src="${url}/js"></script>`,
    PDF: `%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI(${url}/pdf)>>>>endobj\ntrailer<</Root 1 0 R>>`,
    EPS: `%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(${url}/eps) (r) file run showpage`,
    'ImageMagick drawing': `push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 '${url}/mvg'\npop graphic-context`,
    'ImageMagick script': `<?xml version="1.0"?><image><read filename="${url}/msl"/><write filename="/tmp/msl"/></image>`,
    'ImageMagick label': 'label:@/etc/passwd',
    playlist: `#EXTM3U\n#EXTINF:1,\n${url}/m3u8\n#EXT-X-ENDLIST`,
    'path of a file': '/etc/passwd',
    address: `${url}/address`,
    'NetPBM, text': 'P3\n1 1\n255\n1 2 3\n',
    'NetPBM, binary': 'P6\n1 1\n255\nabc',
    Radiance: '#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\nabcd',
    'comma-separated values': '1,2,3\n4,5,6\n',
    BMP: `BM${'\0'.repeat(60)}`,
    ICO: `\0\0\x01\0\x01\0${'\0'.repeat(40)}`,
    PSD: `8BPS\0\x01${'\0'.repeat(40)}`,
    FITS: 'SIMPLE  =                    T'.padEnd(2880),
    OpenEXR: `\x76\x2f\x31\x01\x02${'\0'.repeat(40)}`,
    'libvips image': `\xb6\xa6\xf2\x08${'\0'.repeat(60)}`,
    HEIC: `${box('heic')}${'\0'.repeat(60)}`,
    'MP4 video': `${box('isom')}${'\0'.repeat(60)}`,
    'WebM video': `\x1a\x45\xdf\xa3${'\0'.repeat(60)}`,
    'JPEG XL': `\xff\x0a${'\0'.repeat(60)}`,
    'JPEG 2000': `\0\0\0\x0cjP  \r\n\x87\n${'\0'.repeat(60)}`,
    ZIP: `PK\x03\x04${'\0'.repeat(60)}`,
    'ELF program': `\x7fELF\x02\x01${'\0'.repeat(60)}`,
    WAV: `RIFF\x24\0\0\0WAVEfmt ${'\0'.repeat(28)}`,
  }
  return [
    ...Object.entries(texts).map(([name, text]) => ({ name, bytes: Buffer.from(text, 'latin1') })),
    { name: 'SVG in UTF-16', bytes: Buffer.from(`\ufeff${svg}`, 'utf16le') },
    { name: 'SVG, compressed', bytes: Buffer.from(gzipSync(svg)) },
  ]
}

/** Small files that announce, or unpack to, far more than their size. Each may take seconds to make. */
export async function* bombs(): AsyncGenerator<HostileFile> {
  yield* headers()
  yield* pngs()
  yield* tiffs()
  yield* gifs()
  yield await scans()
  yield await frames()
  yield {
    name: `WebP of ${SIDE} x ${SIDE}`,
    bytes: await sharp(blank).webp({ lossless: true, effort: 0 }).toBuffer().then(own),
  }
}

const blank = { create: { width: SIDE, height: SIDE, channels: 3, background: '#777' } } as const

/** Bodies within the limits that hold as many items as fit, or claim to. */
export function* bodies(): Generator<HostileFile> {
  const size = 8 * 2 ** 20 - 64
  const many = (piece: string) => piece.repeat(size / piece.length)
  const texts: [name: string, path: '/encode' | '/decode', text: string][] = [
    ['JSON of nothing but brackets', '/decode', many('[')],
    ['JSON of nested arrays', '/decode', `{"tokens":${'['.repeat(size / 2)}${']'.repeat(size / 2)}}`],
    ['JSON of nested objects', '/decode', `${'{"a":'.repeat(size / 6)}1${'}'.repeat(size / 6)}`],
    ['JSON of many keys', '/decode', `{${Array.from({ length: size / 12 }, (_, i) => `"k${i}":1`).join()}}`],
    ['JSON of many tokens', '/decode', `{"tokens":[${many('1,')}1]}`],
    ['JSON of many sequences', '/decode', `{"tokens":[${many('[],')}[]]}`],
    ['JSON of many images', '/encode', `{"images":[${many('"",')}""]}`],
    ['JSON of one long number', '/decode', `{"tokens":[${many('9')}]}`],
    ['JSON of one long string of escapes', '/encode', `{"images":["${many('\\')}"]}`],
  ]
  for (const [name, path, text] of texts) yield { name, path, type: 'application/json', bytes: Buffer.from(text) }
  const shapes = [[60_000_000], [60_000_000, 1], [1e15, 0], [60_000, 1000], [1, 60_000_000]]
  for (const shape of shapes) {
    const data = Buffer.alloc(shape.reduce((product, n) => product * n))
    const bytes = Buffer.from(writeNpy('|u1', shape, [data]))
    yield { name: `NumPy [${shape.join(', ')}]`, path: '/decode', type: 'application/x-npy', bytes }
  }
  const header = Buffer.from('\x93NUMPY\x02\0\0\x87\x93\x03', 'latin1')
  const bytes = Buffer.concat([header, Buffer.alloc(60_000_000, "'descr':   ")])
  yield { name: 'NumPy with a header of 60 MB', path: '/decode', type: 'application/x-npy', bytes }
  const multipart = 'multipart/form-data; boundary=x'
  const part = '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
  yield { name: 'multipart of 500,000 parts', type: multipart, bytes: Buffer.from(`${part.repeat(500_000)}--x--\r\n`) }
  const long = part.replace('\r\n\r\n', `\r\nA: ${'a'.repeat(60_000_000)}\r\n\r\n`)
  yield { name: 'multipart with a header of 60 MB', type: multipart, bytes: Buffer.from(`${long}--x--\r\n`) }
}

/** Real files whose header claims a size beyond the limit. */
function* headers(): Generator<HostileFile> {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(100_000, 0)
  header.writeUInt32BE(100_000, 4)
  header.set([8, 2], 8)
  yield { name: 'PNG that says 100,000 x 100,000', bytes: png(header, deflateSync(Buffer.alloc(100))) }
  yield { name: 'GIF that says 65,535 x 65,535', bytes: gif(65_535, 1) }
  const jpeg =
    '\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0?\0\0\xff\xd9'
  yield { name: 'JPEG that says 65,500 x 65,500', bytes: Buffer.from(jpeg, 'latin1') }
  const canvas = Buffer.from('RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff', 'latin1')
  yield { name: 'WebP that says 16,777,216 x 16,777,216', bytes: canvas }
  yield {
    name: 'TIFF that says 1,000,000 x 1,000,000',
    bytes: tiff({ width: 1e6, height: 1e6, bands: 3 }, Buffer.alloc(9)),
  }
}

function* pngs(): Generator<HostileFile> {
  const header = (side: number, depth: number, colour: number, interlace = 0) => {
    const bytes = Buffer.alloc(13)
    bytes.writeUInt32BE(side, 0)
    bytes.writeUInt32BE(side, 4)
    bytes.set([depth, colour, 0, 0, interlace], 8)
    return bytes
  }
  const tiny = header(8, 8, 2)
  const pixels = deflateSync(Buffer.alloc(8 * 25))
  const zeros = deflateSync(Buffer.alloc(500 * 2 ** 20), { level: 1 })
  yield { name: 'PNG whose 8 x 8 pixels unpack to 500 MiB', bytes: png(tiny, zeros) }
  const texts: Record<string, string> = { iCCP: 'p\0\0', zTXt: 't\0\0', iTXt: 't\0\x01\0\0\0' }
  for (const [type, start] of Object.entries(texts)) {
    const hostile = chunk(type, Buffer.concat([Buffer.from(start, 'latin1'), zeros]))
    yield { name: `PNG whose ${type} unpacks to 500 MiB`, bytes: png(tiny, pixels, hostile) }
  }
  const text = chunk('tEXt', Buffer.from('a\0b'))
  yield { name: 'PNG with 100,000 texts', bytes: png(tiny, pixels, Buffer.concat(Array(100_000).fill(text))) }
  const most = deflateSync(Buffer.alloc(SIDE * (SIDE * 8 + 1)), { level: 1 })
  yield { name: `PNG of ${SIDE} x ${SIDE}, 16 bits, alpha`, bytes: png(header(SIDE, 16, 6), most) }
  const passes = deflateSync(Buffer.alloc(SIDE * SIDE * 8 + SIDE * 2), { level: 1 })
  yield { name: `PNG of ${SIDE} x ${SIDE}, 16 bits, alpha, interlaced`, bytes: png(header(SIDE, 16, 6, 1), passes) }
}

function* tiffs(): Generator<HostileFile> {
  const zeros = (size: number) => deflateSync(Buffer.alloc(size), { level: 1 })
  yield {
    name: `TIFF of ${SIDE} x ${SIDE} in one strip`,
    bytes: tiff({ width: SIDE, height: SIDE, bands: 3 }, zeros(SIDE * SIDE * 3)),
  }
  yield {
    name: 'TIFF of 1,000 x 1,000 with 600 channels',
    bytes: tiff({ width: 1000, height: 1000, bands: 600 }, zeros(600e6)),
  }
  yield { name: 'TIFF whose next page is itself', bytes: tiff({ width: 8, height: 8, bands: 3, next: 8 }, zeros(192)) }
  const page = tiff({ width: 8, height: 8, bands: 3 }, zeros(192))
  yield { name: 'TIFF of 10,000 pages', bytes: chained(page, 10_000) }
}

function* gifs(): Generator<HostileFile> {
  yield { name: `GIF of ${SIDE} x ${SIDE} with hardly any data`, bytes: gif(SIDE, 1) }
  yield { name: 'GIF of 200,000 frames', bytes: gif(1, 200_000) }
}

/** A progressive JPEG that repeats its last scan 2,000 times: each covers the whole image. */
async function scans(): Promise<HostileFile> {
  const file = await sharp(blank).jpeg({ progressive: true }).toBuffer()
  const last = file.lastIndexOf(Buffer.from([0xff, 0xda]))
  const scan = file.subarray(last, -2)
  const bytes = Buffer.concat([file.subarray(0, last), ...Array<Buffer>(2000).fill(scan), file.subarray(-2)])
  return { name: `JPEG of ${SIDE} x ${SIDE} in 2,000 scans`, bytes }
}

/** An animated WebP that repeats its frames 10,000 times. */
async function frames(): Promise<HostileFile> {
  const animated = sharp(await fixture('formats/animated.gif'), { animated: true }).resize(32, 24)
  const file = await animated.webp().toBuffer()
  const first = file.indexOf('ANMF')
  const pieces = [file.subarray(0, first), ...Array<Buffer>(10_000).fill(file.subarray(first))]
  const bytes = Buffer.concat(pieces)
  bytes.writeUInt32LE(bytes.length - 8, 4)
  return { name: 'WebP of 30,000 frames', bytes }
}

/** A square GIF whose frames hold one pixel each, whatever size they claim. */
function gif(side: number, frames: number): Buffer<ArrayBuffer> {
  const sides = [side & 255, side >> 8, side & 255, side >> 8]
  const screen = Buffer.from([...sides, 0x80, 0, 0, 0, 0, 0, 255, 255, 255])
  const frame = Buffer.from([0x2c, 0, 0, 0, 0, ...sides, 0, 2, 2, 0x44, 1, 0])
  return Buffer.concat([Buffer.from('GIF89a'), screen, ...Array<Buffer>(frames).fill(frame), Buffer.from(';')])
}

function png(header: Buffer, pixels: Buffer, before: Buffer = Buffer.alloc(0)): Buffer<ArrayBuffer> {
  const magic = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')
  return Buffer.concat([magic, chunk('IHDR', header), before, chunk('IDAT', pixels), chunk('IEND', Buffer.alloc(0))])
}

function chunk(type: string, data: Buffer): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const body = Buffer.concat([Buffer.from(type), data])
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, sum])
}

interface TiffPage {
  width: number
  height: number
  /** Channels of 8 bits. */
  bands: number
  /** Offset of the next page's directory. */
  next?: number
}

/** A TIFF of one page, its directory at offset 8, in one deflated strip. */
function tiff({ width, height, bands, next = 0 }: TiffPage, strip: Buffer): Buffer<ArrayBuffer> {
  const [SHORT, LONG] = [3, 4]
  const entries: [tag: number, type: number, value: number][] = [
    [256, LONG, width],
    [257, LONG, height],
    [258, SHORT, 8],
    [259, SHORT, 8],
    [262, SHORT, bands === 3 ? 2 : 1],
    [273, LONG, 0],
    [277, SHORT, bands],
    [278, LONG, height],
    [279, LONG, strip.length],
    [284, SHORT, 1],
  ]
  const directory = Buffer.alloc(2 + entries.length * 12 + 4)
  directory.writeUInt16LE(entries.length)
  for (const [i, [tag, type, value]] of entries.entries()) {
    const at = 2 + i * 12
    directory.writeUInt16LE(tag, at)
    directory.writeUInt16LE(type, at + 2)
    directory.writeUInt32LE(1, at + 4)
    directory.writeUInt32LE(tag === 273 ? 8 + directory.length : value, at + 8)
  }
  directory.writeUInt32LE(next, directory.length - 4)
  return Buffer.concat([Buffer.from('II*\0\x08\0\0\0', 'latin1'), directory, strip])
}

/** Many copies of a page's directory, each pointing to the next. */
function chained(page: Buffer, count: number): Buffer<ArrayBuffer> {
  const size = 2 + page.readUInt16LE(8) * 12 + 4
  const directories = Array.from({ length: count }, (_, i) => {
    const directory = Buffer.from(page.subarray(8, 8 + size))
    directory.writeUInt32LE(i + 1 < count ? page.length + i * size : 0, size - 4)
    return directory
  })
  const first = directories[0] as Buffer
  return Buffer.concat([page.subarray(0, 8), first, page.subarray(8 + size), ...directories.slice(1)])
}

function own(bytes: Buffer): Buffer<ArrayBuffer> {
  return Buffer.from(bytes)
}
