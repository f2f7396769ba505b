import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeImage, ImageError } from '../../src/formats/decode-image.ts'
import {
  decode,
  deepened,
  difference,
  interleave,
  options,
  photo,
  png,
  type TiffOptions,
  tiff,
} from '../helpers/image-files.ts'

const [rgb, grey] = [await photo(), await photo('grey')]
const reference = await decode(png(rgb))
const greyReference = await decode(png(grey, { colourType: 0 }))
const pixels = rgb.width * rgb.height
/** From transparent on the left to opaque on the right. */
const ramp = Uint8Array.from({ length: pixels }, (_, i) => Math.round(((i % rgb.width) * 255) / (rgb.width - 1)))
const onWhite = await decode(png({ ...rgb, samples: interleave(rgb, ramp) }, { colourType: 6 }))
const greyOnWhite = await decode(png({ ...grey, samples: interleave(grey, ramp) }, { colourType: 4 }))

/** 8-bit samples as 32-bit floating point. */
function floats(samples: Uint8Array, order: 'little' | 'big' = 'little', scale = 1 / 255): Buffer {
  const data = Buffer.alloc(samples.length * 4)
  samples.forEach((value, i) => {
    if (order === 'big') data.writeFloatBE(value * scale, i * 4)
    else data.writeFloatLE(value * scale, i * 4)
  })
  return data
}

async function refused(file: Buffer, message: RegExp, reason: ImageError['reason'] = 'unsupported') {
  await assert.rejects(decode(file), { constructor: ImageError, reason, message })
}

test('unsigned samples of 8 and 16 bits are read in both byte orders, also from BigTIFF', async () => {
  for (const order of ['little', 'big'] as const) {
    for (const big of [false, true]) {
      for (const [bits, data, greyData] of [
        [8, Buffer.from(rgb.samples), Buffer.from(grey.samples)],
        [16, deepened(rgb.samples, order), deepened(grey.samples, order)],
      ] as const) {
        const layout = { bits, order, big }
        assert.ok(difference(await decode(tiff(rgb, data, layout)), reference) < 0.5, JSON.stringify(layout))
        const file = tiff(grey, greyData, { ...layout, samples: 1, photometric: 1 })
        assert.ok(difference(await decode(file), greyReference) < 0.5, `grey ${JSON.stringify(layout)}`)
      }
    }
  }
})

test('32-bit floating point from 0 to 1 is read', async () => {
  for (const order of ['little', 'big'] as const) {
    const layout = { bits: 32, format: 3, order }
    assert.ok(difference(await decode(tiff(rgb, floats(rgb.samples, order), layout)), reference) < 0.5, order)
    const file = tiff(grey, floats(grey.samples, order), { ...layout, samples: 1, photometric: 1 })
    assert.ok(difference(await decode(file), greyReference) < 0.5, `grey ${order}`)
  }
})

test('floating point with alpha is flattened on white', async () => {
  const layout = { bits: 32, format: 3, samples: 4, fields: { 338: [2] } }
  const file = tiff(rgb, floats(interleave(rgb, ramp)), layout)
  assert.ok(difference(await decode(file), onWhite) < 1)
  const greyFile = tiff(grey, floats(interleave(grey, ramp)), { ...layout, samples: 2, photometric: 1 })
  assert.ok(difference(await decode(greyFile), greyOnWhite) < 1)
})

test('floating point outside 0 to 1, or NaN, is refused', async () => {
  const layout = { bits: 32, format: 3 }
  const outside = /floating-point samples outside 0 to 1/
  await refused(tiff(rgb, floats(rgb.samples, 'little', 1), layout), outside)
  await refused(tiff(grey, floats(grey.samples, 'little', 1), { ...layout, samples: 1, photometric: 1 }), outside)
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 1e30, -1e30, -50]) {
    const data = floats(rgb.samples)
    data.writeFloatLE(value, 12_000)
    await refused(tiff(rgb, data, layout), outside)
  }
})

test('the pixel limit applies to floating point', async () => {
  const file = tiff(rgb, floats(rgb.samples), { bits: 32, format: 3 })
  await assert.rejects(decodeImage(file, { ...options, maxPixels: pixels - 1 }), { reason: 'too-many-pixels' })
  await decodeImage(file, { ...options, maxPixels: pixels })
})

test('every other kind of sample is refused by name', async () => {
  const kinds: [Partial<TiffOptions> & { bits: number }, RegExp][] = [
    [{ bits: 8, format: 2 }, /8-bit signed integer samples/],
    [{ bits: 16, format: 2 }, /16-bit signed integer samples/],
    [{ bits: 32, format: 2 }, /32-bit signed integer samples/],
    [{ bits: 32 }, /32-bit unsigned integer samples/],
    [{ bits: 64 }, /64-bit unsigned integer samples/],
    [{ bits: 16, format: 3 }, /16-bit floating-point samples/],
    [{ bits: 24, format: 3 }, /24-bit floating-point samples/],
    [{ bits: 64, format: 3 }, /64-bit floating-point samples/],
    [{ bits: 32, format: 5 }, /complex integer samples/],
    [{ bits: 64, format: 6 }, /complex floating-point samples/],
    [{ bits: 12 }, /12-bit unsigned integer samples/],
    [{ bits: 8, fields: { 258: [5, 6, 5] } }, /samples of different kinds/],
    [{ bits: 32, format: 3, photometric: 5, samples: 4 }, /neither RGB nor grey/],
  ]
  for (const [layout, message] of kinds) {
    for (const order of ['little', 'big'] as const) {
      const data = Buffer.alloc((pixels * (layout.samples ?? 3) * layout.bits) / 8, 60)
      await refused(tiff(rgb, data, { ...layout, order }), message)
    }
  }
  for (const bits of [6, 10, 12, 14, 24]) {
    const data = Buffer.alloc(Math.ceil((grey.width * bits) / 8) * grey.height, 60)
    await refused(tiff(grey, data, { bits, samples: 1, photometric: 1 }), new RegExp(`${bits}-bit unsigned integer`))
  }
})

test('colour that libvips would misread is refused by name', async () => {
  const kinds: [photometric: number, samples: number, message: RegExp][] = [
    [8, 3, /CIE L\*a\*b\* colour/],
    [9, 3, /ICC L\*a\*b\* colour/],
    [10, 3, /ITU L\*a\*b\* colour/],
    [6, 3, /YCbCr colour with 1 by 1 subsampling/],
    [32844, 1, /Log L colour/],
    [4, 1, /transparency mask/],
    [777, 3, /unknown colour space/],
    [1, 4, /4 samples per pixel \(grey\)/],
    [2, 5, /5 samples per pixel \(RGB\)/],
    [5, 5, /5 samples per pixel \(CMYK\)/],
  ]
  for (const [photometric, samples, message] of kinds) {
    const data = Buffer.alloc(pixels * samples, 60)
    await refused(tiff(rgb, data, { bits: 8, samples, photometric, fields: { 530: [1, 1] } }), message)
  }
})

test('a last band that is not declared as alpha is ignored', async () => {
  for (const band of [ramp, new Uint8Array(pixels)]) {
    for (const fields of [{ 338: [0] }, {}] as TiffOptions['fields'][]) {
      const layout = { bits: 8, samples: 4, ...(fields && { fields }) }
      const four = tiff(rgb, Buffer.from(interleave(rgb, band)), layout)
      assert.ok(difference(await decode(four), reference) < 0.5)
      const two = tiff(grey, Buffer.from(interleave(grey, band)), { ...layout, samples: 2, photometric: 1 })
      assert.ok(difference(await decode(two), greyReference) < 0.5, 'grey')
      const deep = tiff(rgb, deepened(interleave(rgb, band), 'little'), { ...layout, bits: 16 })
      assert.ok(difference(await decode(deep), reference) < 0.5, '16 bits')
    }
  }
})

test('a last band that is declared as alpha is flattened on white', async () => {
  const premultiplied = rgb.samples.map((value, i) => Math.round((value * (ramp[Math.floor(i / 3)] ?? 0)) / 255))
  for (const [kind, samples] of [
    [2, rgb.samples],
    [1, premultiplied],
  ] as const) {
    const data = interleave({ ...rgb, samples }, ramp)
    const file = tiff(rgb, Buffer.from(data), { bits: 8, samples: 4, fields: { 338: [kind] } })
    assert.ok(difference(await decode(file), onWhite) < 1, `ExtraSamples ${kind}`)
    const deep = tiff(rgb, deepened(data, 'big'), { bits: 16, order: 'big', samples: 4, fields: { 338: [kind] } })
    assert.ok(difference(await decode(deep), onWhite) < 1, `ExtraSamples ${kind}, 16 bits`)
  }
})

test('a camera raw and a thumbnail are refused by name', async () => {
  const data = Buffer.from(rgb.samples)
  const make = (name: string) => Buffer.from(`${name}\0`, 'latin1')
  const child = (fields: TiffOptions['fields']) => {
    // A second directory at the end of the file; the first one points to it.
    const parent = (at: number) => tiff(rgb, data, { bits: 8, fields: { ...fields, 330: [at] } })
    return parent(parent(0).length)
  }
  const directory = (photometric: number) =>
    Buffer.from([
      2,
      0,
      254,
      0,
      4,
      0,
      1,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      6,
      1,
      4,
      0,
      1,
      0,
      0,
      0,
      photometric & 255,
      photometric >> 8,
      0,
      0,
      0,
      0,
      0,
      0,
    ])
  await refused(tiff(rgb, data, { bits: 8, fields: { 50706: Buffer.from([1, 4, 0, 0]) } }), /camera raw \(DNG\)/)
  const nef = Buffer.concat([child({ 254: [1], 271: make('NIKON CORPORATION') }), directory(32803)])
  await refused(nef, /camera raw \(NEF\)/)
  const arw = Buffer.concat([child({ 254: [1], 271: make('SONY') }), directory(32803)])
  await refused(arw, /camera raw \(ARW\)/)
  await refused(tiff(rgb, data, { bits: 8, photometric: 32803 }), /camera raw/)
  await refused(Buffer.concat([child({ 254: [1] }), directory(2)]), /first picture is a thumbnail/)
  const pages = Buffer.concat([child({ 254: [0] }), directory(2)])
  assert.ok(difference(await decode(pages), reference) === 0, 'the first picture of several')
  await refused(Buffer.from('IIRO\x08\0\0\0'.padEnd(100, '\0'), 'latin1'), /camera raw \(ORF\)/)
  await refused(Buffer.from('FUJIFILMCCD-RAW 0201'.padEnd(100, '\0'), 'latin1'), /camera raw \(RAF\)/)
})

test('directories that loop, are outside the file or announce too much do no harm', async () => {
  const data = Buffer.from(rgb.samples)
  const file = tiff(rgb, data, { bits: 8 })
  const directory = file.readUInt32LE(4)
  const looping = Buffer.from(file)
  looping.writeUInt32LE(directory, file.length - 4)
  assert.ok(difference(await decode(looping), reference) === 0)
  const subLoop = tiff(rgb, data, { bits: 8, fields: { 330: [directory, directory, directory] } })
  subLoop.writeUInt32LE(subLoop.readUInt32LE(4), subLoop.length - 4)
  await decode(subLoop)
  for (const at of [0, 5, file.length - 1, 0xffffffff]) {
    const lost = Buffer.from(file)
    lost.writeUInt32LE(at, 4)
    await refused(lost, /damaged or cut off/, 'undecodable')
  }
  const crowded = Buffer.from(file)
  crowded.writeUInt16LE(65_535, directory)
  await refused(crowded, /damaged or cut off/, 'undecodable')
  for (const length of [4, 7, 8, 100, file.length - 20]) {
    await refused(file.subarray(0, length), /damaged or cut off/, 'undecodable')
  }
})
