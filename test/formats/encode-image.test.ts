import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { decodeImage } from '../../src/formats/decode-image.ts'
import { encodeImage } from '../../src/formats/encode-image.ts'
import { photos } from '../helpers/service.ts'

const [photo = Buffer.alloc(0)] = photos

test('png keeps every pixel, webp and jpeg follow the quality', async () => {
  const pixels = await decodeImage(photo, { size: 128, maxPixels: 1e6 })
  const png = await encodeImage(pixels, 128, 'png', 1)
  assert.deepEqual(await sharp(png).raw().toBuffer(), pixels)
  for (const format of ['webp', 'jpeg'] as const) {
    const [low, high] = await Promise.all([20, 95].map((quality) => encodeImage(pixels, 128, format, quality)))
    assert.ok(low && high && low.length < high.length)
    const { format: found, width, height } = await sharp(high).metadata()
    assert.deepEqual([found, width, height], [format, 128, 128])
  }
})

test('a picture as smooth as decoded ones takes far fewer bytes as png with filters', async () => {
  const smooth = sharp(photo).removeAlpha().resize(128, 128).blur(1.5)
  const pixels = await smooth.clone().raw().toBuffer()
  const png = await encodeImage(pixels, 128, 'png', 1)
  const unfiltered = await smooth.png({ adaptiveFiltering: false }).toBuffer()
  assert.ok(png.length < 0.7 * unfiltered.length, `${png.length} and ${unfiltered.length} bytes`)
})
