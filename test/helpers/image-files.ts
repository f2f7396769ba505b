/** Writers of valid but unusual image files, and a measure of how much two pictures differ. */
import assert from 'node:assert/strict'
import { crc32, deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { decodeImage } from '../../src/formats/decode-image.ts'
import { fixture } from './service.ts'

export const options = { size: 128, maxPixels: 50_000_000 }

export const decode = (bytes: Buffer) => decodeImage(bytes, options)

/** A photo's samples. */
export interface Picture {
  width: number
  height: number
  /** 0 to 255, C order. */
  samples: Uint8Array
}

/** A photo of 300 x 200. */
export async function photo(space: 'rgb' | 'grey' = 'rgb'): Promise<Picture> {
  const image = sharp(fixture('formats/cat.png')).toColourspace(space === 'grey' ? 'b-w' : 'srgb')
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, samples: data }
}

/** Mean absolute difference per channel, 0 to 255. */
export function difference(a: Buffer, b: Buffer): number {
  assert.equal(a.length, b.length)
  return a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] ?? 0)), 0) / a.length
}

/** Samples joined pixel by pixel: `bands` of one picture, then one of each of the others. */
export function interleave({ samples }: Picture, ...others: ArrayLike<number>[]): Uint8Array {
  const pixels = others[0]?.length ?? 0
  const bands = samples.length / pixels
  const all = bands + others.length
  return Uint8Array.from({ length: pixels * all }, (_, i) => {
    const [pixel, band] = [Math.floor(i / all), i % all]
    return band < bands ? (samples[pixel * bands + band] ?? 0) : (others[band - bands]?.[pixel] ?? 0)
  })
}

/** Converts 8-bit samples to 16 bits, in the given byte order. */
export function deepened(samples: Uint8Array, order: 'little' | 'big'): Buffer {
  const deep = Buffer.alloc(samples.length * 2)
  samples.forEach((value, i) => {
    if (order === 'big') deep.writeUInt16BE(value * 257, i * 2)
    else deep.writeUInt16LE(value * 257, i * 2)
  })
  return deep
}

export function chunk(type: string, data: Uint8Array): Buffer {
  const named = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  sum.writeUInt32BE(crc32(named))
  return Buffer.concat([length, named, sum])
}

/** A PNG with additional chunks before and after its pixels. */
export function png(
  { width, height, samples }: Picture,
  { deep = false, colourType = 2, before = [] as Buffer[], after = [] as Buffer[] } = {},
): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width)
  header.writeUInt32BE(height, 4)
  header.set([deep ? 16 : 8, colourType], 8)
  const data = deep ? deepened(samples, 'big') : Buffer.from(samples)
  const row = data.length / height
  const rows = Array.from({ length: height }, (_, y) => [Buffer.alloc(1), data.subarray(y * row, (y + 1) * row)]).flat()
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', header),
    ...before,
    chunk('IDAT', deflateSync(Buffer.concat(rows))),
    ...after,
    chunk('IEND', Buffer.alloc(0)),
  ])
}

export function profileChunk(profile: Buffer): Buffer {
  return chunk('iCCP', Buffer.concat([Buffer.from('x\0\0', 'latin1'), deflateSync(profile)]))
}

/** Values of a TIFF field: whole numbers, or bytes. */
export type Fields = Record<number, number[] | Buffer>

/** A TIFF or BigTIFF with one strip. `fields` adds fields or replaces the derived ones. */
export function tiff(
  { width, height }: { width: number; height: number },
  data: Buffer,
  { bits, samples = 3, photometric = 2, format = 1, order = 'little', big = false, fields = {} }: TiffOptions,
): Buffer {
  const all: Fields = {
    ...{
      256: [width],
      257: [height],
      258: Array(samples).fill(bits),
      259: [1],
      262: [photometric],
      273: [big ? 16 : 8],
    },
    ...{ 277: [samples], 278: [height], 279: [data.length], 284: [1], 339: Array(samples).fill(format), ...fields },
  }
  const little = order === 'little'
  const number = (value: number, size: number) => {
    const bytes = Buffer.alloc(size)
    if (little) bytes.writeUIntLE(value, 0, Math.min(size, 6))
    else bytes.writeUIntBE(value, Math.max(0, size - 6), Math.min(size, 6))
    return bytes
  }
  const offsetSize = big ? 8 : 4
  const body = [data, Buffer.alloc(data.length % 2)]
  let end = (big ? 16 : 8) + data.length + (data.length % 2)
  const entries = Object.entries(all).map(([tag, values]) => {
    const isBytes = Buffer.isBuffer(values)
    const raw = isBytes ? values : Buffer.concat(values.map((value) => number(value, 4)))
    let place = Buffer.concat([raw, Buffer.alloc(Math.max(0, offsetSize - raw.length))])
    if (raw.length > offsetSize) {
      place = number(end, offsetSize)
      body.push(raw, Buffer.alloc(raw.length % 2))
      end += raw.length + (raw.length % 2)
    }
    return [number(Number(tag), 2), number(isBytes ? 7 : 4, 2), number(values.length, offsetSize), place]
  })
  const magic = Buffer.from(little ? 'II' : 'MM', 'latin1')
  const head = big
    ? [magic, number(43, 2), number(8, 2), number(0, 2), number(end, 8)]
    : [magic, number(42, 2), number(end, 4)]
  const directory = [number(entries.length, big ? 8 : 2), ...entries.flat(), number(0, offsetSize)]
  return Buffer.concat([...head, ...body, ...directory])
}

export interface TiffOptions {
  bits: number
  samples?: number
  photometric?: number
  format?: number
  order?: 'little' | 'big'
  big?: boolean
  fields?: Fields
}

/** EXIF with only an orientation. */
export function exif(orientation: number, order: 'little' | 'big' = 'big'): Buffer {
  const bytes =
    order === 'big' ? '4d4d002a00000008000101120003000000010000' : '49492a0008000000010012010300010000000000'
  const block = Buffer.concat([Buffer.from(bytes, 'hex'), Buffer.alloc(6)])
  block[order === 'big' ? 19 : 18] = orientation
  return block
}
