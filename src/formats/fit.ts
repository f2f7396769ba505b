import sharp, { type Sharp } from 'sharp'
import { halve, type Pixels } from './halve.ts'

/** How an image of any size becomes a square one. The defaults are what sharp itself does. */
export interface Fit {
  /** Height and width of the result, in pixels; the shorter side is resized to it, the longer one is cropped. */
  size: number
  /** lanczos3 by default. */
  kernel?: 'lanczos3' | 'bicubic'
  /** How the length of the longer side is rounded; `round` by default. */
  longerSide?: 'round' | 'floor' | 'half-even'
  /** How half of an odd excess is rounded when the centre is cropped; `ceil` by default. */
  cropOffset?: 'floor' | 'ceil' | 'half-even'
  /** Whether the image is halved with a box filter before, while its shorter side is at least twice `size`; not by default. */
  halveFirst?: boolean
}

/** The size of a resized image, and the first pixel of the square that is kept. */
export interface Placement {
  width: number
  height: number
  left: number
  top: number
}

/** The size that an image of `width` x `height` is resized to, and where the square is cropped. */
export function placementOf(width: number, height: number, fit: Fit): Placement {
  const { size, longerSide = 'round', cropOffset = 'ceil' } = fit
  const [shorter, longer] = [Math.min(width, height), Math.max(width, height)]
  const scaled = Math.max(size, scaledSide(size, longer, shorter, longerSide))
  const offset = rounded((scaled - size) / 2, cropOffset)
  return width > height
    ? { width: scaled, height: size, left: offset, top: 0 }
    : { width: size, height: scaled, left: 0, top: offset }
}

function scaledSide(size: number, longer: number, shorter: number, rule: 'round' | 'floor' | 'half-even'): number {
  // In this order of operations, as in the code that rounds so: another one would round other products to a half.
  if (rule === 'half-even') return rounded(longer * (size / shorter), rule)
  const exact = (size * longer) / shorter
  return rule === 'floor' ? Math.floor(exact) : Math.round(exact)
}

function rounded(value: number, rule: 'floor' | 'ceil' | 'half-even'): number {
  const down = Math.floor(value)
  if (value === down || rule === 'floor') return down
  if (rule === 'ceil' || value - down > 0.5) return down + 1
  return value - down === 0.5 && down % 2 === 1 ? down + 1 : down
}

/** Whether sharp's `cover` does this. It does not need the header first. */
export function fitsAsCover({ longerSide = 'round', cropOffset = 'ceil', halveFirst = false }: Fit): boolean {
  return longerSide === 'round' && cropOffset === 'ceil' && !halveFirst
}

/**
 * Resizes and crops to the centre.
 * @param image opened with `autoOrient`, and without other operations.
 */
export async function fitted(image: Sharp, fit: Fit): Promise<Sharp> {
  const { size, kernel = 'lanczos3' } = fit
  if (fitsAsCover(fit)) {
    return image.resize(size, size, { fit: 'cover', position: 'centre', kernel: sharpKernel(kernel) })
  }
  const { autoOrient } = await image.metadata()
  if (fit.halveFirst && Math.min(autoOrient.width, autoOrient.height) >= 2 * size) {
    const { data, width, height } = await halved(image, size)
    return placed(sharp(data, { raw: { width, height, channels: 3 } }), { width, height }, fit)
  }
  return placed(image, autoOrient, fit)
}

/** Halves an image while its shorter side is at least twice `size`. */
async function halved(image: Sharp, size: number): Promise<Pixels> {
  const { data, info } = await image.toColourspace('srgb').raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true })
  let pixels: Pixels = { data, width: info.width, height: info.height }
  while (Math.min(pixels.width, pixels.height) >= 2 * size) pixels = halve(pixels)
  return pixels
}

async function placed(image: Sharp, from: { width: number; height: number }, fit: Fit): Promise<Sharp> {
  const { size, kernel = 'lanczos3' } = fit
  const { width, height, left, top } = placementOf(from.width, from.height, fit)
  // Cutting out the whole image first changes only one thing: a JPEG is decoded in full, not at a fraction of its size,
  // which would be a different kernel from the bundle's.
  const whole = image.extract({ left: 0, top: 0, width: from.width, height: from.height })
  const resizing = { fit: 'fill', kernel: sharpKernel(kernel) } as const
  if (Math.min(from.width, from.height) >= size) {
    return whole.resize(width, height, resizing).extract({ left, top, width: size, height: size })
  }
  const twice = await whole
    .resize(2 * width, 2 * height, resizing)
    .extract({ left: 2 * left, top: 2 * top, width: 2 * size, height: 2 * size })
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer()
  return sharp(oddPixels(twice, size), { raw: { width: size, height: size, channels: 3 } })
}

/**
 * Takes every second pixel of every second row, from the second on, of uint8 `[2 * size, 2 * size, 3]`. libvips enlarges an
 * image half a pixel too far to the right and down; at twice the size, these pixels are in the right place.
 */
function oddPixels(twice: Buffer, size: number): Buffer {
  const pixels = Buffer.alloc(size * size * 3)
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const from = ((2 * y + 1) * 2 * size + 2 * x + 1) * 3
      twice.copy(pixels, (y * size + x) * 3, from, from + 3)
    }
  }
  return pixels
}

/** sharp's name for the kernel with a = -0.5 is `cubic`. */
function sharpKernel(kernel: 'lanczos3' | 'bicubic'): 'lanczos3' | 'cubic' {
  return kernel === 'bicubic' ? 'cubic' : kernel
}
