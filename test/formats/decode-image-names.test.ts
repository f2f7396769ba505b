import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deflateSync } from 'node:zlib'
import { ImageError } from '../../src/formats/decode-image.ts'
import { chunk, decode, tiff } from '../helpers/image-files.ts'
import { fixture } from '../helpers/service.ts'

const named: [file: string, message: RegExp][] = [
  ['zstandard.tiff', /Zstandard compression/],
  ['lzma.tiff', /LZMA compression/],
  ['jpeg2000.tiff', /JPEG 2000 compression/],
  ['12-bit.jpg', /12-bit JPEG/],
  ['lossless-16-bit.jpg', /16-bit lossless JPEG/],
  ['ls.jpg', /JPEG-LS/],
  ['small.jp2', /JPEG 2000/],
  ['small.jxl', /JPEG XL/],
  ['small.heic', /HEIC/],
]

test('an intact file of an unsupported kind is refused by name', async () => {
  for (const [file, message] of named) {
    const refused = { constructor: ImageError, reason: 'unsupported', message }
    await assert.rejects(decode(fixture(`formats/${file}`)), refused, file)
  }
})

test('every TIFF compression that libvips does not read has a name', async () => {
  const compressions = {
    6: 'old-style JPEG',
    34887: 'LERC',
    34934: 'JPEG XR',
    50002: 'JPEG XL',
    65000: 'unknown \\(65000\\)',
  }
  for (const [compression, name] of Object.entries(compressions)) {
    const file = tiff({ width: 8, height: 8 }, Buffer.alloc(192), { bits: 8, fields: { 259: [Number(compression)] } })
    await assert.rejects(decode(file), { reason: 'unsupported', message: new RegExp(`${name} compression`) })
  }
})

test('a format is recognised by its first bytes', async () => {
  const starts: Record<string, string> = {
    '8BPS\0\x01': 'PSD',
    'BM\x36\x04': 'BMP',
    qoif: 'QOI',
    'P6\n1 1\n255\n': 'PNM',
    'v/1\x01': 'OpenEXR',
    '\x93NUMPY\x01': 'NumPy',
    '<!DOCTYPE html><html>': 'HTML',
    '\xef\xbb\xbf<svg xmlns="x">': 'SVG',
  }
  for (const [start, name] of Object.entries(starts)) {
    const file = Buffer.from(start.padEnd(64, '\0'), 'latin1')
    await assert.rejects(decode(file), { reason: 'unsupported', message: new RegExp(name) })
  }
})

/** A black PNG with one bit per pixel. */
function blackPng(width: number, height: number): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width)
  header.writeUInt32BE(height, 4)
  header[8] = 1
  const rows = Buffer.alloc((1 + Math.ceil(width / 8)) * height)
  const signature = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

test('a side that is too long for libvips is reported as too long', async () => {
  const tooLong = { constructor: ImageError, reason: 'too-many-pixels', message: /too long to resize: \d+ x \d+/ }
  await assert.rejects(decode(blackPng(1_000_001, 1)), tooLong)
  await assert.rejects(decode(blackPng(1, 1_000_001)), tooLong)
  const layout = { bits: 8, samples: 1, photometric: 1 }
  await assert.rejects(decode(tiff({ width: 1, height: 1_000_000 }, Buffer.alloc(1_000_000), layout)), tooLong)
  await decode(blackPng(200_000, 1))
})

test('damaged files are still reported as damaged', async () => {
  for (const file of ['12-bit.jpg', 'zstandard.tiff', 'small.png', 'cat.webp', 'animated.gif', 'cat.tiff']) {
    const bytes = fixture(`formats/${file}`)
    await assert.rejects(decode(bytes.subarray(0, 15)), { constructor: ImageError, reason: 'undecodable' }, file)
  }
})
