import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeImage, ImageError } from '../../src/formats/decode-image.ts'
import { fixture } from '../helpers/service.ts'

const options = { size: 128, maxPixels: 50_000_000 }
const decode = (name: string) => decodeImage(fixture(`formats/${name}`), options)

/** Mean absolute difference per channel, 0 to 255. */
function difference(a: Buffer, b: Buffer): number {
  assert.equal(a.length, b.length)
  return a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] ?? 0)), 0) / a.length
}

const pixel = (image: Buffer, x: number, y: number) => [...image.subarray((y * 128 + x) * 3, (y * 128 + x) * 3 + 3)]

test('every format gives the same photo at the model size', async () => {
  const reference = await decode('cat.png')
  assert.equal(reference.length, 128 * 128 * 3)
  for (const name of ['cat.jpg', 'cat.webp', 'cat.avif', 'cat.tiff', 'palette.png', 'display-p3.jpg']) {
    assert.ok(difference(await decode(name), reference) < 6, name)
  }
  assert.ok(difference(await decode('cmyk.jpg'), reference) < 16, 'cmyk.jpg')
  assert.ok(difference(await decode('16-bit.png'), reference) < 12, '16-bit.png')
})

test('grey gives three equal channels', async () => {
  const image = await decode('grayscale.jpg')
  assert.equal(image.length, 128 * 128 * 3)
  for (let i = 0; i < image.length; i += 3) assert.ok(image[i] === image[i + 1] && image[i] === image[i + 2])
})

test('EXIF orientation is applied', async () => {
  const reference = await decode('cat.png')
  for (let orientation = 1; orientation <= 8; orientation++) {
    assert.ok(difference(await decode(`orientation-${orientation}.jpg`), reference) < 6, `${orientation}`)
  }
})

test('transparent areas become white', async () => {
  const image = await decode('alpha.png')
  assert.deepEqual(pixel(image, 0, 0), [255, 255, 255])
  assert.notDeepEqual(pixel(image, 64, 64), [255, 255, 255])
})

test('an animation gives its first frame', async () => {
  const image = await decode('animated.gif')
  const first = await decodeImage(fixture('photos/flamingo.webp'), options)
  const second = await decodeImage(fixture('photos/leopard.webp'), options)
  assert.ok(difference(image, first) < difference(image, second) / 2)
})

test('one pixel and 24 megapixels come out at the model size', async () => {
  for (const name of ['1x1.png', '6000x4000.jpg']) assert.equal((await decode(name)).length, 128 * 128 * 3)
  const one = await decode('1x1.png')
  assert.deepEqual(pixel(one, 0, 0), pixel(one, 127, 127))
})

test('the pixel limit is checked before decoding', async () => {
  const refused = decodeImage(fixture('formats/6000x4000.jpg'), { size: 128, maxPixels: 23_999_999 })
  await assert.rejects(refused, { constructor: ImageError, reason: 'too-many-pixels', message: /pixels/ })
  await decodeImage(fixture('formats/6000x4000.jpg'), { size: 128, maxPixels: 24_000_000 })
})

test('files that are not photos are refused', async () => {
  const refused: [Buffer, ImageError['reason'], RegExp][] = [
    [fixture('formats/drawing.svg'), 'unsupported', /SVG/],
    [fixture('formats/drawing-named.png'), 'unsupported', /SVG/],
    [Buffer.from('%PDF-1.7\n'), 'unsupported', /PDF/],
    [fixture('formats/truncated.jpg'), 'undecodable', /cut off/],
    [
      fixture('formats/text.txt'),
      'unknown-format',
      /^is not an image in a known format; JPEG, PNG, WebP, AVIF, GIF and TIFF are supported$/,
    ],
    [fixture('formats/cat.png').subarray(0, 40), 'undecodable', /cannot be decoded/],
    [Buffer.alloc(0), 'undecodable', /empty/],
  ]
  for (const [bytes, reason, message] of refused) {
    await assert.rejects(decodeImage(bytes, options), { constructor: ImageError, reason, message })
  }
})
