import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { decodeImage } from '../../src/formats/decode-image.ts'
import { placementOf } from '../../src/formats/fit.ts'
import { parseNpy } from '../../src/formats/npy.ts'
import { fixture } from '../helpers/service.ts'

const titok = { size: 256, kernel: 'bicubic', longerSide: 'floor', cropOffset: 'half-even' } as const

test('the longer side is rounded or truncated, and half of an odd excess is rounded as the bundle says', () => {
  const at = (width: number, height: number, fit: object) =>
    Object.values(placementOf(width, height, { ...titok, ...fit }))
  // 640 x 427 gives 383.7 pixels: an excess of 127 or 128.
  assert.deepEqual(at(640, 427, {}), [383, 256, 64, 0])
  assert.deepEqual(at(640, 427, { cropOffset: 'floor' }), [383, 256, 63, 0])
  assert.deepEqual(at(640, 427, { cropOffset: 'ceil' }), [383, 256, 64, 0])
  assert.deepEqual(at(640, 427, { longerSide: 'round' }), [384, 256, 64, 0])
  // 101 x 67 gives 385: 64.5 goes to the even 64.
  assert.deepEqual(at(101, 67, {}), [385, 256, 64, 0])
  assert.deepEqual(at(67, 101, { cropOffset: 'ceil' }), [256, 385, 0, 65])
  assert.deepEqual(at(500, 500, {}), [256, 256, 0, 0])
  assert.deepEqual(at(1000, 999, {}), [256, 256, 0, 0])
})

for (const [what, file, expected] of [
  ['reduces', 'photos/full/cat.jpg', 'resized/cat-bicubic.npy'],
  ['enlarges', 'resized/cat-small.png', 'resized/cat-enlarged.npy'],
] as const) {
  test(`bicubic ${what} as Pillow does`, async () => {
    const { data } = parseNpy(fixture(expected))
    const difference = async (fit: object) => {
      const pixels = await decodeImage(fixture(file), { ...titok, size: 96, maxPixels: 1e6, ...fit })
      return pixels.reduce((sum, value, i) => sum + Math.abs(value - (data[i] ?? Number.NaN)), 0) / data.length
    }
    assert.ok((await difference({})) < 0.3, `${await difference({})}`)
    // sharp's own way of fitting would give another picture.
    assert.ok((await difference({ kernel: 'lanczos3', longerSide: 'round', cropOffset: 'ceil' })) > 0.5)
  })
}

test('orientation is applied before the size is read', async () => {
  const upright = await sharp(fixture('photos/full/cat.jpg')).png().toBuffer()
  const lying = await sharp(upright).rotate(270).withMetadata({ orientation: 6 }).png().toBuffer()
  const options = { ...titok, size: 96, maxPixels: 1e6 }
  const [expected, pixels] = await Promise.all([decodeImage(upright, options), decodeImage(lying, options)])
  const worst = pixels.reduce((most, value, i) => Math.max(most, Math.abs(value - (expected[i] ?? 255))), 0)
  assert.ok(worst <= 2, `${worst}`)
})
