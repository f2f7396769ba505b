import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { test } from 'node:test'
import sharp from 'sharp'
import type { ImagePreparation } from '../../src/inference/inference.ts'
import { preparationOf, viewsOf } from '../../src/tokenize/crops.ts'
import { ItemError } from '../../src/tokenize/errors.ts'
import { fixture } from '../helpers/service.ts'

/** How the default bundle prepares images, at another size. */
const prepared = (size: number): ImagePreparation => ({
  ...{ size, kernel: 'lanczos3', longerSide: 'round', cropOffset: 'ceil', space: 'srgb', background: '#ffffff' },
})
const MAX_PIXELS = 50_000_000

/** The middle of a photo, as in the fixtures. */
async function middle(width: number, height: number): Promise<Buffer> {
  const [left, top] = [Math.floor((534 - width) / 2), Math.floor((800 - height) / 2)]
  return sharp(fixture('photos/full/drum.jpg')).extract({ left, top, width, height }).png().toBuffer()
}

/** A square of an image, uint8 `[size,size,3]`. */
function cut(image: Uint8Array, side: number, left: number, top: number, size: number): Buffer {
  return Buffer.concat(
    Array.from({ length: size }, (_, y) => {
      const from = ((top + y) * side + left) * 3
      return image.subarray(from, from + size * 3)
    }),
  )
}

/** The image with left and right exchanged, pixel by pixel. */
function mirror(image: Uint8Array, side: number): Buffer {
  const mirrored = Buffer.alloc(image.length)
  for (let i = 0; i < side * side; i++) {
    const [y, x] = [Math.floor(i / side), i % side]
    mirrored.set(image.subarray((y * side + x) * 3, (y * side + x + 1) * 3), (y * side + side - 1 - x) * 3)
  }
  return mirrored
}

function meanDifference(a: Uint8Array, b: Uint8Array): number {
  assert.equal(a.length, b.length)
  return a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] as number)), 0) / a.length
}

// The largest model size whose square has this side.
const sizes: Record<number, number> = { 140: 128, 105: 96, 70: 64 }
const squares = readdirSync(new URL('../fixtures/ten-crop/', import.meta.url)).filter((name) => name.endsWith('.png'))

for (const name of squares) {
  test(`ten crops of ${name.replace('.png', '')} are Pillow's`, async () => {
    const [, width = 0, height = 0, side = 0] = (/(\d+)x(\d+)-(\d+)/.exec(name) ?? []).map(Number)
    const size = sizes[side] as number
    const square = await sharp(fixture(`ten-crop/${name}`))
      .raw()
      .toBuffer()
    const margin = side - size
    const [m, c] = [margin, Math.round(margin / 2 - 0.25)]
    const places = [
      [0, 0],
      [m, 0],
      [0, m],
      [m, m],
      [c, c],
    ] as [number, number][]
    const expected = [square, mirror(square, side)].flatMap((image) =>
      places.map(([left, top]) => cut(image, side, left, top, size)),
    )
    const views = await viewsOf(await middle(width, height), { crops: 'ten', flip: false }, prepared(size), MAX_PIXELS)
    assert.equal(views.length, 10)
    for (const [i, view] of views.entries()) {
      const difference = meanDifference(view, expected[i] as Buffer)
      assert.ok(difference < 0.3, `crop ${i}: ${difference}`)
      // The comparison notices a neighbouring crop, and a shift of one pixel.
      for (const [j, other] of expected.entries()) {
        if (j !== i) assert.ok(meanDifference(view, other) > 2, `crops ${i} and ${j}`)
      }
    }
    const [left, top] = [c === 0 ? 1 : c - 1, c]
    assert.ok(meanDifference(views[4] as Uint8Array, cut(square, side, left, top, size)) > 1)
  })
}

test('the mirror of ten crops is the mirror of the whole square', async () => {
  // At 256 the margin is odd: the last crop is not the mirror of the centre crop.
  const views = await viewsOf(fixture('photos/full/drum.jpg'), { crops: 'ten', flip: false }, prepared(256), MAX_PIXELS)
  const mirrorOf = (i: number) => mirror(views[i] as Uint8Array, 256)
  for (const [i, j] of [
    [5, 1],
    [6, 0],
    [7, 3],
    [8, 2],
  ] as const) {
    assert.deepEqual(Buffer.from(views[i] as Uint8Array), mirrorOf(j), `${i} and ${j}`)
  }
  assert.ok(meanDifference(views[9] as Uint8Array, mirrorOf(4)) > 1)
})

test('a mirrored view is the exact mirror of the first', async () => {
  const [view, mirrored, ...more] = await viewsOf(
    ...([fixture('photos/full/cat.jpg'), { crops: 'centre', flip: true }, prepared(128), MAX_PIXELS] as const),
  )
  assert.deepEqual(more, [])
  assert.deepEqual(Buffer.from(mirrored as Uint8Array), mirror(view as Uint8Array, 128))
  assert.notDeepEqual(mirrored, view)
})

test('a broken image is an item that fails, with its reason', async () => {
  for (const crops of ['centre', 'ten'] as const) {
    for (const [file, reason] of [
      ['formats/truncated.jpg', /^cannot be decoded/],
      ['formats/text.txt', /^is not an image/],
    ] as const) {
      await assert.rejects(viewsOf(fixture(file), { crops, flip: false }, prepared(128), MAX_PIXELS), (error) => {
        assert.ok(error instanceof ItemError)
        assert.match(error.message, reason)
        return true
      })
    }
  }
})

test('the record of ten crops says how large the square is', () => {
  assert.equal(preparationOf({ crops: 'ten', flip: false }, prepared(256)).resized, 281)
  assert.equal(preparationOf({ crops: 'ten', flip: false }, prepared(384)).resized, 422)
  assert.equal(preparationOf({ crops: 'centre', flip: true }, prepared(384)).kernel, 'lanczos3')
})
