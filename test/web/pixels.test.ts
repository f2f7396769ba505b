import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { difference, grey, type Picture, psnr } from '../../web/src/pixels.ts'
import { fixture } from '../helpers/service.ts'

async function photo(): Promise<Picture> {
  const { data, info } = await sharp(fixture('photos/ketch.webp'))
    .ensureAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, data: new Uint8ClampedArray(data) }
}

const changed = ({ width, height, data }: Picture, by: (value: number, i: number) => number): Picture => ({
  ...{ width, height },
  data: data.map((value, i) => (i % 4 === 3 ? value : by(value, i))),
})

test('PSNR follows its definition, over colours but not alpha', async () => {
  const picture = await photo()
  assert.equal(psnr(picture, picture), Number.POSITIVE_INFINITY)
  // Every channel is off by 10: the mean squared error is 100.
  const shifted = changed(picture, (value) => (value < 128 ? value + 10 : value - 10))
  assert.ok(Math.abs(psnr(picture, shifted) - 10 * Math.log10(255 ** 2 / 100)) < 1e-9)
  // One channel of three.
  const red = changed(picture, (value, i) => (i % 4 > 0 ? value : value < 128 ? value + 10 : value - 10))
  assert.ok(Math.abs(psnr(picture, red) - 10 * Math.log10(255 ** 2 / (100 / 3))) < 1e-9)
  const clearer = { ...picture, data: picture.data.map((value, i) => (i % 4 === 3 ? 128 : value)) }
  assert.equal(psnr(picture, clearer), Number.POSITIVE_INFINITY)
  assert.throws(() => psnr(picture, grey(2, 2)), RangeError)
})

test('a difference image is dark where nothing changed and brightest where most changed', async () => {
  const picture = await photo()
  const at = 4 * (40 * picture.width + 30)
  const touched = changed(picture, (value, i) => (i >= at && i < at + 3 ? 255 - value : value))
  const { data, largest } = difference(picture, touched)
  const [r, g, b] = picture.data.slice(at, at + 3)
  const expected = [r, g, b].reduce<number>((sum, value = 0) => sum + Math.abs(255 - 2 * value), 0) / 3
  assert.ok(Math.abs(largest - expected) < 1e-4, `${largest} is not ${expected}`)
  assert.deepEqual([...data.slice(at, at + 4)], [252, 253, 191, 255])
  assert.deepEqual([...data.slice(at + 4, at + 8)], [18, 16, 32, 255])
  // On a larger scale the same change is darker.
  assert.ok((difference(picture, touched, 255).data[at] as number) < 252)
})

test('rounding is not shown as a change', async () => {
  const picture = await photo()
  const nudged = changed(picture, (value) => (value < 128 ? value + 1 : value))
  const brightest = Math.max(...difference(picture, nudged).data.filter((_, i) => i % 4 === 1))
  assert.ok(brightest < 40, `${brightest}`)
})
