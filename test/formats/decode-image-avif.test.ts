import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ImageError } from '../../src/formats/decode-image.ts'
import { decode, difference } from '../helpers/image-files.ts'
import { fixture } from '../helpers/service.ts'

const reference = await decode(fixture('formats/small.png'))
const heic = fixture('formats/small.heic')

/** The same file with other brands: one for the first, and one for all the others. */
function branded(file: Buffer, first: string, others: string): Buffer {
  const copy = Buffer.from(file)
  copy.write(first, 8, 'latin1')
  for (let at = 16; at < copy.readUInt32BE(0); at += 4) copy.write(others, at, 'latin1')
  return copy
}

test('an AVIF sequence gives its still picture', async () => {
  const sequence = fixture('formats/sequence.avif')
  assert.equal(sequence.toString('latin1', 8, 12), 'avis')
  assert.ok(difference(await decode(sequence), reference) < 4)
})

test('AVIF is recognised by any of its brands or by its items', async () => {
  for (const name of ['sequence.avif', 'cat.avif']) {
    const file = fixture(`formats/${name}`)
    const right = await decode(file)
    for (const first of ['avif', 'avis', 'miaf', 'mif1', 'msf1', 'MA1B', 'zzzz']) {
      for (const others of ['avif', 'avis', 'miaf', 'mif1', 'msf1']) {
        assert.ok(difference(await decode(branded(file, first, others)), right) === 0, `${name} ${first} ${others}`)
      }
    }
  }
})

test('HEIC and videos are refused by name, whatever the brand', async () => {
  for (const first of ['heic', 'heix', 'hevc', 'heim', 'mif1', 'msf1', 'miaf', 'zzzz']) {
    for (const others of ['heic', 'mif1', 'miaf']) {
      const file = branded(heic, first, others)
      await assert.rejects(decode(file), { constructor: ImageError, reason: 'unsupported', message: /HEIC/ })
    }
  }
  const film = Buffer.from('\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x08free', 'latin1')
  await assert.rejects(decode(film), { reason: 'unsupported', message: /video/ })
  const raw = Buffer.from('\0\0\0\x18ftypcrx \0\0\0\x01crx isom\0\0\0\x08free', 'latin1')
  await assert.rejects(decode(raw), { reason: 'unsupported', message: /camera raw \(CR3\)/ })
})

test('premultiplied alpha is refused by name', async () => {
  const file = fixture('formats/premultiplied.avif')
  await assert.rejects(decode(file), { reason: 'unsupported', message: /premultiplied alpha/ })
})

test('a truncated AVIF is reported as damaged', async () => {
  const file = fixture('formats/cat.avif')
  for (const length of [12, 20, 40, 200, 400, file.length - 1000]) {
    await assert.rejects(
      decode(file.subarray(0, length)),
      { constructor: ImageError, reason: 'undecodable' },
      `${length}`,
    )
  }
})
