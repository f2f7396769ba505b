import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { decode, difference, photo, png } from '../helpers/image-files.ts'

const { width, height, samples } = await photo()
const raw = { raw: { width, height, channels: 3 as const } }
const frame = await sharp(samples, raw).gif().toBuffer()
/** Where the picture begins in sharp's GIF: after the colour table and the frame's descriptor. */
const table = frame.subarray(13, 13 + 3 * 2 ** (((frame[10] ?? 0) & 7) + 1))
const shown = await sharp(frame).flatten({ background: '#fff' }).raw().toBuffer()

/** The photo's GIF on a canvas of another size. */
function onCanvas({
  canvas,
  at,
  before = Buffer.alloc(0),
}: {
  canvas: [number, number]
  at: [number, number]
  before?: Buffer
}) {
  const file = Buffer.from(frame)
  file.writeUInt16LE(canvas[0], 6)
  file.writeUInt16LE(canvas[1], 8)
  let descriptor = 13 + table.length
  while (file[descriptor] === 0x21) {
    descriptor += 2
    while (file[descriptor]) descriptor += 1 + (file[descriptor] ?? 0)
    descriptor++
  }
  assert.equal(file[descriptor], 0x2c)
  file.writeUInt16LE(at[0], descriptor + 1)
  file.writeUInt16LE(at[1], descriptor + 3)
  // Without the blocks that sharp wrote in between, which may name a transparent colour.
  return Buffer.concat([file.subarray(0, 13 + table.length), before, file.subarray(descriptor)])
}

async function expected(canvas: [number, number], at: [number, number]): Promise<Buffer> {
  const white = { create: { width: canvas[0], height: canvas[1], channels: 3 as const, background: '#fff' } }
  const pasted = sharp(white).composite([
    { input: shown, raw: { width, height, channels: 3 }, left: at[0], top: at[1] },
  ])
  return decode(await pasted.png().toBuffer())
}

test('the part of the canvas that the first frame does not cover is white', async () => {
  const control = (flags: number, colour = 0) => Buffer.from([0x21, 0xf9, 4, flags, 0, 0, colour, 0])
  const comment = Buffer.from([0x21, 0xfe, 2, 0x68, 0x69, 0])
  const canvas: [number, number] = [400, 400]
  for (const at of [
    [0, 0],
    [50, 100],
    [100, 200],
  ] as [number, number][]) {
    const right = await expected(canvas, at)
    for (const [name, before] of Object.entries({
      'nothing said': Buffer.alloc(0),
      'a comment': comment,
      'disposal to background': control(2 << 2),
      'disposal to previous': control(3 << 2),
    })) {
      assert.ok(difference(await decode(onCanvas({ canvas, at, before })), right) < 0.5, `${at}, ${name}`)
    }
  }
})

test('a file whose first frame covers the canvas is unchanged', async () => {
  const whole = onCanvas({ canvas: [width, height], at: [0, 0] })
  const reference = await decode(png({ width, height, samples: shown }))
  assert.ok(difference(await decode(whole), reference) < 0.5)
})

test('a GIF that ends within its first frame is reported as damaged', async () => {
  const file = onCanvas({ canvas: [400, 400], at: [50, 100] })
  for (const length of [14, 13 + table.length + 5, file.length / 2]) {
    await assert.rejects(decode(file.subarray(0, length)), { reason: 'undecodable', message: /damaged or cut off/ })
  }
})
