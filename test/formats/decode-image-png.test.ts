import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { chunk, decode, difference, exif, type Picture, photo, png } from '../helpers/image-files.ts'

const upright = await photo()
const reference = await decode(png(upright))

/** The photo as stored with an orientation. */
async function stored(orientation: number): Promise<Picture> {
  const { width, height, samples } = upright
  const raw = sharp(samples, { raw: { width, height, channels: 3 } })
  // The operation that reverses the orientation.
  const image = {
    ...{ 1: raw, 2: raw.clone().flop(), 3: raw.clone().rotate(180), 4: raw.clone().flip() },
    ...{ 5: raw.clone().rotate(270).flop(), 6: raw.clone().rotate(270) },
    ...{ 7: raw.clone().rotate(90).flop(), 8: raw.clone().rotate(90) },
  }[orientation]
  assert.ok(image)
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, samples: data }
}

/** EXIF as ImageMagick writes it into a text chunk. */
const hexadecimal = (kind: string, block: Buffer) =>
  `\n${kind}\n${String(block.length).padStart(8)}\n${block.toString('hex').replace(/.{72}/g, '$&\n')}\n`

test('orientation in eXIf is applied, before or after the pixels', async () => {
  for (const order of ['big', 'little'] as const) {
    for (let orientation = 1; orientation <= 8; orientation++) {
      const picture = await stored(orientation)
      const eXIf = [chunk('eXIf', exif(orientation, order))]
      for (const place of [{ before: eXIf }, { after: eXIf }]) {
        assert.ok(difference(await decode(png(picture, place)), reference) < 1, `${order} ${orientation}`)
      }
    }
  }
})

test('orientation in a text chunk is applied', async () => {
  const picture = await stored(6)
  const block = Buffer.concat([Buffer.from('Exif\0\0', 'latin1'), exif(6)])
  for (const [keyword, kind] of [
    ['Raw profile type exif', 'exif'],
    ['Raw profile type APP1', 'generic profile'],
  ] as const) {
    const text = Buffer.from(hexadecimal(kind, block), 'latin1')
    const head = Buffer.from(`${keyword}\0`, 'latin1')
    const texts = [
      chunk('tEXt', Buffer.concat([head, text])),
      chunk('zTXt', Buffer.concat([head, Buffer.alloc(1), deflateSync(text)])),
      chunk('iTXt', Buffer.concat([head, Buffer.from([0, 0, 0, 0]), text])),
      chunk('iTXt', Buffer.concat([head, Buffer.from([1, 0, 0, 0]), deflateSync(text)])),
    ]
    for (const written of texts) {
      for (const place of [{ before: [written] }, { after: [written] }]) {
        assert.ok(difference(await decode(png(picture, place)), reference) < 1, `${keyword} ${Object.keys(place)}`)
      }
    }
  }
})

test('eXIf has precedence over a text chunk, and text that is not EXIF is ignored', async () => {
  const picture = await stored(6)
  const text = (block: Buffer) =>
    chunk('tEXt', Buffer.from(`Raw profile type exif\0${hexadecimal('exif', block)}`, 'latin1'))
  const both = png(picture, { after: [chunk('eXIf', exif(6)), text(exif(3))] })
  assert.ok(difference(await decode(both), reference) < 1)
  for (const nothing of [
    chunk('eXIf', Buffer.alloc(0)),
    chunk('eXIf', Buffer.from('MM\0*\xff\xff\xff\xff', 'latin1')),
  ]) {
    assert.ok(difference(await decode(png(upright, { after: [nothing] })), reference) === 0)
  }
  assert.ok(difference(await decode(png(upright, { after: [text(Buffer.alloc(100, 0xff))] })), reference) === 0)
})
