import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import {
  chunk,
  decode,
  deepened,
  difference,
  exif,
  interleave,
  photo,
  png,
  profileChunk,
  tiff,
} from '../helpers/image-files.ts'

const [rgb, grey] = [await photo(), await photo('grey')]
const alpha = Uint8Array.from({ length: rgb.width * rgb.height }, (_, i) => ((i % rgb.width) * 255) / rgb.width)

/** A profile that sharp has by name. */
async function profile(name: string): Promise<Buffer> {
  const { icc } = await sharp({ create: { width: 1, height: 1, channels: 3, background: '#fff' } })
    .withIccProfile(name)
    .png()
    .toBuffer()
    .then((bytes) => sharp(bytes).metadata())
  assert.ok(icc)
  return icc
}

/** A profile with its curve replaced by a gamma, stored in 8.8 fixed point. */
function withGamma(icc: Buffer, gamma: number): Buffer {
  const bytes = Buffer.from(icc)
  for (let i = 0; i < bytes.readUInt32BE(128); i++) {
    const entry = 132 + i * 12
    if (!bytes.toString('latin1', entry, entry + 4).endsWith('TRC')) continue
    const at = bytes.readUInt32BE(entry + 4)
    bytes.write('curv', at, 'latin1')
    bytes.writeUInt32BE(1, at + 8)
    bytes.writeUInt16BE(Math.round(gamma * 256), at + 12)
    bytes.writeUInt32BE(14, entry + 8)
  }
  return bytes
}

/** A grey profile with a gamma: a white point and a curve. */
function greyProfile(gamma: number): Buffer {
  const bytes = Buffer.alloc(132 + 24 + 20 + 16)
  bytes.writeUInt32BE(bytes.length)
  bytes.writeUInt32BE(0x02400000, 8)
  bytes.write('mntrGRAYXYZ ', 12, 'latin1')
  bytes.write('acsp', 36, 'latin1')
  const d50 = Buffer.from('0000f6d6000100000000d32d', 'hex')
  d50.copy(bytes, 68)
  bytes.writeUInt32BE(2, 128)
  bytes.write('wtpt', 132, 'latin1')
  bytes.writeUInt32BE(156, 136)
  bytes.writeUInt32BE(20, 140)
  bytes.write('kTRC', 144, 'latin1')
  bytes.writeUInt32BE(176, 148)
  bytes.writeUInt32BE(14, 152)
  bytes.write('XYZ ', 156, 'latin1')
  d50.copy(bytes, 164)
  bytes.write('curv', 176, 'latin1')
  bytes.writeUInt32BE(1, 184)
  bytes.writeUInt16BE(Math.round(gamma * 256), 188)
  return bytes
}

const p3 = await profile('p3')
const profiles: [name: string, profile: Buffer][] = [
  ['Display P3', p3],
  ['sRGB', await profile('srgb')],
  ['linear P3', withGamma(p3, 1)],
  ['no profile at all', Buffer.alloc(200, 7)],
]

test('16-bit RGB with a profile equals its 8-bit form', async () => {
  for (const [name, icc] of profiles) {
    const eight = await decode(png(rgb, { before: [profileChunk(icc)] }))
    const files = {
      png: png(rgb, { deep: true, before: [profileChunk(icc)] }),
      'little-endian tiff': tiff(rgb, deepened(rgb.samples, 'little'), { bits: 16, fields: { 34675: icc } }),
      'big-endian tiff': tiff(rgb, deepened(rgb.samples, 'big'), { bits: 16, order: 'big', fields: { 34675: icc } }),
    }
    for (const [kind, file] of Object.entries(files)) {
      assert.ok(difference(await decode(file), eight) < 0.5, `${name}, ${kind}`)
    }
  }
})

test('16-bit RGB with a profile and alpha equals its 8-bit form', async () => {
  for (const [name, icc] of profiles) {
    const picture = { ...rgb, samples: interleave(rgb, alpha) }
    const [eight, sixteen] = [false, true].map((deep) =>
      png(picture, { deep, colourType: 6, before: [profileChunk(icc)] }),
    )
    assert.ok(eight && sixteen)
    assert.ok(difference(await decode(sixteen), await decode(eight)) < 0.5, name)
  }
})

test('16-bit grey with a profile equals its 8-bit form', async () => {
  for (const gamma of [1, 1.8, 2.2]) {
    const icc = greyProfile(gamma)
    const eight = await decode(png(grey, { colourType: 0, before: [profileChunk(icc)] }))
    const sixteen = await decode(png(grey, { deep: true, colourType: 0, before: [profileChunk(icc)] }))
    assert.ok(difference(sixteen, eight) < 0.5, `png, gamma ${gamma}`)
    const layout = { bits: 16, samples: 1, photometric: 1, fields: { 34675: icc } }
    assert.ok(
      difference(await decode(tiff(grey, deepened(grey.samples, 'little'), layout)), eight) < 0.5,
      `tiff ${gamma}`,
    )
    const veiled = { ...grey, samples: interleave(grey, alpha) }
    const [a, b] = [false, true].map((deep) => png(veiled, { deep, colourType: 4, before: [profileChunk(icc)] }))
    assert.ok(a && b)
    assert.ok(difference(await decode(b), await decode(a)) < 0.5, `alpha, gamma ${gamma}`)
  }
})

test("a profile for a different colour space than the pixels' is ignored at both depths", async () => {
  const [eight, sixteen] = [false, true].map((deep) => png(grey, { deep, colourType: 0, before: [profileChunk(p3)] }))
  assert.ok(eight && sixteen)
  assert.ok(difference(await decode(sixteen), await decode(eight)) < 0.5)
})

test('orientation is also applied when there is a profile', async () => {
  const nothing = new Uint8Array(alpha.length)
  for (let orientation = 1; orientation <= 8; orientation++) {
    const before = [profileChunk(p3), chunk('eXIf', exif(orientation))]
    const eight = await decode(png(rgb, { before }))
    const fields = { 274: [orientation], 34675: p3 }
    const files = {
      png: png(rgb, { deep: true, before }),
      tiff: tiff(rgb, deepened(rgb.samples, 'little'), { bits: 16, fields }),
      'tiff with another band': tiff(rgb, Buffer.from(interleave(rgb, nothing)), { bits: 8, samples: 4, fields }),
    }
    for (const [kind, file] of Object.entries(files)) {
      assert.ok(difference(await decode(file), eight) < 0.5, `${kind}, orientation ${orientation}`)
    }
  }
})

test('floating point with a profile is within 1 of its 8-bit form', async () => {
  const floats = (samples: Uint8Array) => Buffer.from(Float32Array.from(samples, (value) => value / 255).buffer)
  const layout = { bits: 32, format: 3 }
  const file = tiff(rgb, floats(rgb.samples), { ...layout, fields: { 34675: p3 } })
  assert.ok(difference(await decode(file), await decode(png(rgb, { before: [profileChunk(p3)] }))) < 1)
  const icc = greyProfile(1.8)
  const greyFile = tiff(grey, floats(grey.samples), { ...layout, samples: 1, photometric: 1, fields: { 34675: icc } })
  const eight = await decode(png(grey, { colourType: 0, before: [profileChunk(icc)] }))
  assert.ok(difference(await decode(greyFile), eight) < 1)
})

test('16-bit CMYK with a profile equals its 8-bit form', async () => {
  const { width, height, samples } = rgb
  const jpeg = await sharp(samples, { raw: { width, height, channels: 3 } })
    .withIccProfile('cmyk')
    .jpeg()
    .toBuffer()
  const { icc } = await sharp(jpeg).metadata()
  assert.ok(icc)
  const inks = Buffer.from(interleave({ ...rgb, samples: samples.map((value) => 255 - value) }, alpha))
  const layout = { samples: 4, photometric: 5, fields: { 34675: icc } }
  const eight = await decode(tiff(rgb, inks, { ...layout, bits: 8 }))
  const sixteen = await decode(tiff(rgb, deepened(inks, 'little'), { ...layout, bits: 16 }))
  assert.ok(difference(sixteen, eight) < 0.5)
})

test('10-bit AVIF with a profile equals its 8-bit form', async () => {
  const { width, height, samples } = rgb
  const [eight, ten] = await Promise.all(
    ([8, 10] as const).map((bitdepth) =>
      sharp(samples, { raw: { width, height, channels: 3 } })
        .withIccProfile('p3')
        .avif({ quality: 95, bitdepth, chromaSubsampling: '4:4:4', effort: 1 })
        .toBuffer(),
    ),
  )
  assert.ok(eight && ten)
  const original = await decode(png(rgb))
  assert.ok(difference(await decode(ten), original) < 2)
  assert.ok(difference(await decode(ten), await decode(eight)) < 2)
})
