import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { ImageError } from '../../src/formats/decode-image.ts'
import { chunk, decode, difference, type Picture, photo, png } from '../helpers/image-files.ts'
import { fixture } from '../helpers/service.ts'

const [rgb, grey] = [await photo(), await photo('grey')]

// Conversions to sRGB with published matrices for linear light (D65, CSS Color 4).
const toSrgb = {
  sRGB: [1, 0, 0, 0, 1, 0, 0, 0, 1],
  P3: [1.2249402, -0.2249402, 0, -0.042057, 1.042057, 0, -0.0196376, -0.0786361, 1.0982735],
  'BT.2020': [1.660491, -0.5876411, -0.0728499, -0.1245505, 1.1328999, -0.0083494, -0.0181508, -0.1005789, 1.1187297],
  'Adobe RGB': [1.3983557, -0.3983557, 0, 0, 1, 0, 0, -0.042929, 1.042929],
}
const linear = (value: number) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
const encoded = (light: number) => {
  const value = Math.min(1, Math.max(0, light))
  return Math.round(255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055))
}
const power = (gamma: number) => (value: number) => value ** gamma

/** The photo's values, read as values of another colour space and converted to sRGB. */
function converted(
  { samples, ...size }: Picture,
  space: keyof typeof toSrgb,
  transfer: (value: number) => number,
): Picture {
  const m = toSrgb[space]
  const light = Array.from({ length: 256 }, (_, value) => transfer(value / 255))
  const at = (i: number) => light[samples[i] ?? 0] ?? 0
  const result = Uint8Array.from(samples, (_, i) => {
    const [pixel, row] = [i - (i % 3), i % 3]
    return encoded([0, 1, 2].reduce((sum, k) => sum + (m[row * 3 + k] ?? 0) * at(pixel + k), 0))
  })
  return { ...size, samples: result }
}

const cICP = (...codes: number[]) => chunk('cICP', Buffer.from(codes))
function numbers(type: string, ...values: number[]): Buffer {
  const data = Buffer.alloc(values.length * 4)
  values.forEach((value, i) => {
    data.writeUInt32BE(Math.round(value * 100_000), i * 4)
  })
  return chunk(type, data)
}
const gAMA = (value: number) => numbers('gAMA', value)
const cHRM = (...primaries: number[]) => numbers('cHRM', 0.3127, 0.329, ...primaries)
const adobe = cHRM(0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
const p3 = cHRM(0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
const srgbPrimaries = cHRM(0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
const sRGB = chunk('sRGB', Buffer.alloc(1))

test('colour that a PNG names without a profile is converted to sRGB', async () => {
  const kinds: [name: string, chunks: Buffer[], right: Picture][] = [
    ['Display P3', [cICP(12, 13, 0, 1)], converted(rgb, 'P3', linear)],
    ['BT.2020', [cICP(9, 13, 0, 1)], converted(rgb, 'BT.2020', linear)],
    ['gamma 2.2', [cICP(1, 4, 0, 1)], converted(rgb, 'sRGB', power(2.2))],
    ['linear', [cICP(1, 8, 0, 1)], converted(rgb, 'sRGB', power(1))],
    ['gAMA 1', [gAMA(1)], converted(rgb, 'sRGB', power(1))],
    ['gAMA 1/1.8', [gAMA(1 / 1.8)], converted(rgb, 'sRGB', power(1.8))],
    ['Adobe RGB', [gAMA(1 / 2.19921875), adobe], converted(rgb, 'Adobe RGB', power(2.19921875))],
    ['P3 primaries', [p3], converted(rgb, 'P3', linear)],
    ['cICP before sRGB, gAMA and cHRM', [cICP(12, 13, 0, 1), sRGB, gAMA(1), adobe], converted(rgb, 'P3', linear)],
    ['sRGB before gAMA and cHRM', [sRGB, gAMA(1), adobe], rgb],
    ['sRGB by code points', [cICP(1, 13, 0, 1), gAMA(1)], rgb],
    ['unspecified', [cICP(2, 2, 0, 1)], rgb],
    ['what many writers add to sRGB values', [gAMA(0.45455), srgbPrimaries], rgb],
    ['primaries that do not form a colour space', [gAMA(0.45455), cHRM(0, 0, 0, 0, 0, 0)], rgb],
    ['a gamma of 0', [gAMA(0)], rgb],
  ]
  for (const [name, before, right] of kinds) {
    for (const deep of [false, true]) {
      const away = difference(await decode(png(rgb, { deep, before })), await decode(png(right)))
      assert.ok(away < 1, `${name}, ${deep ? 16 : 8} bits: ${away}`)
    }
  }
})

test('grey with another gamma is converted to sRGB', async () => {
  const right = { ...grey, samples: grey.samples.map((value) => encoded(value / 255)) }
  for (const deep of [false, true]) {
    const file = png(grey, { deep, colourType: 0, before: [gAMA(1)] })
    assert.ok(difference(await decode(file), await decode(png(right, { colourType: 0 }))) < 1)
  }
})

test('colour that cannot be converted to sRGB is refused by name', async () => {
  const refused: [codes: number[], message: RegExp][] = [
    [[9, 16, 0, 1], /high dynamic range \(PQ\)/],
    [[9, 18, 0, 1], /high dynamic range \(HLG\)/],
    [[1, 13, 1, 1], /luma and chroma/],
    [[1, 13, 0, 0], /narrow-range colour/],
    [[99, 13, 0, 1], /primaries 99/],
    [[1, 99, 0, 1], /transfer characteristics 99/],
  ]
  for (const [codes, message] of refused) {
    const file = png(rgb, { before: [cICP(...codes)] })
    await assert.rejects(decode(file), { constructor: ImageError, reason: 'unsupported', message })
  }
  const pq = fixture('formats/pq.avif')
  await assert.rejects(decode(pq), { constructor: ImageError, reason: 'unsupported', message: /\(PQ\)/ })
})

test('colour that an AVIF names without a profile is converted to sRGB', async () => {
  const stored = fixture('formats/small.png')
  const right = await decode(png(await pictureOf(stored), { before: [cICP(12, 13, 0, 1)] }))
  assert.ok(difference(right, await decode(stored)) > 3, 'the colours do differ')
  for (const name of ['p3.avif', 'p3-10-bit.avif']) {
    assert.ok(difference(await decode(fixture(`formats/${name}`)), right) < 2.5, name)
  }
})

async function pictureOf(file: Buffer): Promise<Picture> {
  const { data, info } = await sharp(file).raw().toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, samples: data }
}
