import sharp from 'sharp'
import { decodeImage, ImageError } from '../formats/decode-image.ts'
import type { ImagePreparation } from '../inference/inference.ts'
import { ItemError } from './errors.ts'

/** Which views of an image are tokenized. */
export interface Crops {
  /** `centre`: what the service makes of the image. `ten`: the corners and the centre of a larger square, and of its mirror image. */
  crops: 'centre' | 'ten'
  /** Whether the mirror image follows the image; not with ten crops, which have it. */
  flip: boolean
}

/** How much larger the square of ten crops is than a crop. */
const TEN_CROP_SCALE = 1.1

/** Views per image. */
export function viewCount({ crops, flip }: Crops): number {
  return crops === 'ten' ? 10 : flip ? 2 : 1
}

/** How images become pixels, for the record. */
export function preparationOf({ crops }: Crops, image: ImagePreparation): Record<string, string | number> {
  if (crops === 'centre') return { crops, ...image }
  const { kernel, longerSide, cropOffset } = TEN_CROP_FIT
  const { size, space, background } = image
  return { crops, size, resized: squareOf(size), kernel, longerSide, cropOffset, halvedFirst: 'box', space, background }
}

/**
 * Turns an image file into the views that the model takes.
 * @returns uint8 `[S,S,3]` each, in the order of {@link Crops}
 * @throws ItemError
 */
export async function viewsOf(
  bytes: Buffer,
  crops: Crops,
  image: ImagePreparation,
  maxPixels: number,
): Promise<Uint8Array[]> {
  try {
    if (crops.crops === 'ten') return await tenCrops(bytes, image.size, maxPixels)
    const pixels = await decodeImage(bytes, { ...image, maxPixels })
    return crops.flip ? [pixels, await mirrored(pixels, image.size)] : [pixels]
  } catch (error) {
    throw error instanceof ImageError ? new ItemError(error.message) : error
  }
}

/**
 * How ADM and the code after it bring an image to a square: halved with a box filter while it is twice too large, then bicubic, with
 * the longer side rounded half to even and the offset rounded down.
 */
const TEN_CROP_FIT = { kernel: 'bicubic', longerSide: 'half-even', cropOffset: 'floor', halveFirst: true } as const

function squareOf(size: number): number {
  return Math.floor(size * TEN_CROP_SCALE)
}

/** The crops of torchvision's TenCrop: top left, top right, bottom left, bottom right, centre; then those of the mirror image. */
async function tenCrops(bytes: Buffer, size: number, maxPixels: number): Promise<Uint8Array[]> {
  const side = squareOf(size)
  const square = await decodeImage(bytes, { ...TEN_CROP_FIT, size: side, maxPixels })
  const margin = side - size
  const middle = halfEven(margin / 2)
  const places = [
    [0, 0],
    [margin, 0],
    [0, margin],
    [margin, margin],
    [middle, middle],
  ] as const
  return [square, await mirrored(square, side)].flatMap((pixels) =>
    places.map(([left, top]) => cut(pixels, side, left, top, size)),
  )
}

/** A square of an image, uint8 `[side,side,3]`. */
function cut(pixels: Uint8Array, side: number, left: number, top: number, size: number): Uint8Array {
  const crop = new Uint8Array(size * size * 3)
  for (let y = 0; y < size; y++) {
    const from = ((top + y) * side + left) * 3
    crop.set(pixels.subarray(from, from + size * 3), y * size * 3)
  }
  return crop
}

/** An image, uint8 `[side,side,3]`, with left and right exchanged. */
function mirrored(pixels: Uint8Array, side: number): Promise<Buffer> {
  return sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
    .flop()
    .raw()
    .toBuffer()
}

function halfEven(value: number): number {
  const down = Math.floor(value)
  return value > down && down % 2 === 1 ? down + 1 : down
}
