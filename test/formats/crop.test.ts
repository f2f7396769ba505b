import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { test } from 'node:test'
import sharp from 'sharp'
import { decodeImage } from '../../src/formats/decode-image.ts'
import { fixture } from '../helpers/service.ts'

const size = 128
const row = size * 3

/** Mean absolute difference per channel of two images, with the second one shifted by `shift` pixels. */
function difference(a: Buffer, b: Buffer, shift: { x: number; y: number } = { x: 0, y: 0 }): number {
  let sum = 0
  let count = 0
  for (let y = 0; y < size - shift.y; y++) {
    for (let i = y * row; i < (y + 1) * row - shift.x * 3; i++, count++) {
      const other = (b.readUInt8(i) + b.readUInt8(i + shift.y * row + shift.x * 3)) / 2
      sum += Math.abs(a.readUInt8(i) - other)
    }
  }
  return sum / count
}

const names = readdirSync(new URL('../fixtures/crops/', import.meta.url)).filter((name) => name.endsWith('.png'))

for (const name of names) {
  test(`an image of ${name.replace('.png', '')} is cropped as in training`, async () => {
    const [width = 0, height = 0] = name.replace('.png', '').split('x').map(Number)
    const photo = sharp(fixture('photos/full/drum.jpg'))
    const left = Math.floor((534 - width) / 2)
    const top = Math.floor((800 - height) / 2)
    const image = await photo.extract({ left, top, width, height }).png().toBuffer()
    const pixels = await decodeImage(image, { size, maxPixels: 1_000_000 })
    const expected = await sharp(fixture(`crops/${name}`))
      .raw()
      .toBuffer()
    assert.equal(pixels.length, size * row)
    assert.ok(difference(pixels, expected) < 0.6, `${difference(pixels, expected)}`)
    // The comparison is sensitive enough to detect an offset of half a pixel.
    assert.ok(difference(pixels, expected, { x: 1, y: 0 }) > 0.8)
    assert.ok(difference(pixels, expected, { x: 0, y: 1 }) > 0.8)
  })
}
