import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import sharp from 'sharp'
import { type Picture, psnr } from '../../web/src/pixels.ts'
import { bestWithin, search, type Thumbnail, withoutExtras } from '../../web/src/webp.ts'
import { fixture } from '../helpers/service.ts'

const file = fixture('photos/water-lily.webp')
const SIZE = 128
let original: Picture
let tried: Thumbnail[]
let found: Thumbnail[]

const pixelsOf = async (image: Buffer | Uint8Array): Promise<Picture> => {
  const raw = await sharp(image).resize(SIZE, SIZE).ensureAlpha().raw().toBuffer()
  return { width: SIZE, height: SIZE, data: new Uint8ClampedArray(raw) }
}

before(async () => {
  original = await pixelsOf(file)
  tried = []
  found = await search(
    async (side, quality) => {
      const small = await sharp(file)
        .resize(side, side)
        .webp({ quality: Math.max(1, quality * 100) })
        .toBuffer()
      const picture = await pixelsOf(small)
      const thumbnail = { bytes: small.length, side, picture, psnr: psnr(original, picture) }
      tried.push(thumbnail)
      return thumbnail
    },
    { size: SIZE, most: 192 },
  )
})

test('the best WebP within a byte limit is the best of those tried', () => {
  const { psnr: whole } = bestWithin(found, 192) ?? assert.fail('there is one of 192 bytes')
  assert.ok(whole > 16, `${whole} dB`)
  for (const bytes of [48, 64, 96, 128, 192]) {
    const best = bestWithin(found, bytes)
    assert.ok((best?.bytes ?? 0) <= bytes)
    const within = tried.filter((thumbnail) => thumbnail.bytes <= bytes)
    assert.equal(best?.psnr, within.length > 0 ? Math.max(...within.map(({ psnr }) => psnr)) : undefined)
  }
})

test('more bytes are never worse, and no file fits into very few', () => {
  assert.equal(bestWithin(found, 2), undefined)
  assert.ok(found.length > 3)
  for (const [i, { bytes, psnr }] of found.entries()) {
    assert.ok(bytes <= 192)
    const next = found[i + 1]
    if (next !== undefined) assert.ok(next.bytes >= bytes && next.psnr > psnr)
  }
})

test('removing the colour profile does not change the picture', async () => {
  const plain = new Uint8Array(await sharp(file).resize(16, 16).webp().toBuffer())
  const heavy = new Uint8Array(
    await sharp(file).resize(16, 16).keepIccProfile().withIccProfile('srgb').webp().toBuffer(),
  )
  assert.ok(heavy.length > plain.length + 100)
  const stripped = withoutExtras(heavy)
  assert.equal(stripped.length, plain.length)
  assert.deepEqual(await pixelsOf(stripped), await pixelsOf(plain))
  assert.deepEqual(withoutExtras(plain), plain)
  const transparent = new Uint8Array(
    await sharp({ create: { width: 9, height: 9, channels: 4, background: '#f008' } })
      .webp()
      .toBuffer(),
  )
  assert.deepEqual(withoutExtras(transparent), transparent)
})
