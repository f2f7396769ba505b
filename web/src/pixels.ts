/** Arithmetic on pictures: plain arrays, no browser. */

/** RGBA bytes, row by row; browsers' own ImageData is one. */
export interface Picture {
  readonly width: number
  readonly height: number
  readonly data: Uint8ClampedArray
}

/**
 * Peak signal-to-noise ratio over red, green and blue, in dB; infinite if both are equal.
 *
 * @throws RangeError if the sizes differ
 */
export function psnr(a: Picture, b: Picture): number {
  requireSameSize(a, b)
  let sum = 0
  for (let i = 0; i < a.data.length; i++) {
    if (i % 4 < 3) sum += ((a.data[i] as number) - (b.data[i] as number)) ** 2
  }
  return 10 * Math.log10((255 ** 2 * (a.data.length / 4) * 3) / sum)
}

/** What differs between two pictures, to be looked at. */
export interface Difference {
  /** RGBA: dark where nothing changed, through violet and orange to pale yellow where the most did. */
  data: Uint8ClampedArray<ArrayBuffer>
  /** The largest change of any pixel, as the mean over its channels, 0 to 255. */
  largest: number
}

/** Below this the scale does not stretch further, so that rounding does not look like change. */
export const LEAST_SCALE = 8

const ramp = [
  [18, 16, 32],
  [88, 28, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 253, 191],
] as const

/**
 * Where two pictures differ.
 *
 * @param scale the change that is drawn brightest, 0 to 255; by default the largest that there is
 * @throws RangeError if the sizes differ
 */
export function difference(a: Picture, b: Picture, scale?: number): Difference {
  requireSameSize(a, b)
  const pixels = a.data.length / 4
  const changes = new Float32Array(pixels)
  let largest = 0
  for (let p = 0; p < pixels; p++) {
    let sum = 0
    for (let c = 4 * p; c < 4 * p + 3; c++) sum += Math.abs((a.data[c] as number) - (b.data[c] as number))
    changes[p] = sum / 3
    largest = Math.max(largest, sum / 3)
  }
  const data = new Uint8ClampedArray(a.data.length)
  const full = scale ?? Math.max(largest, LEAST_SCALE)
  for (let p = 0; p < pixels; p++) {
    const at = Math.min((changes[p] as number) / full, 1) * (ramp.length - 1)
    const step = Math.min(Math.floor(at), ramp.length - 2)
    const [from, to] = [ramp[step], ramp[step + 1]] as [(typeof ramp)[number], (typeof ramp)[number]]
    for (let c = 0; c < 3; c++)
      data[4 * p + c] = (from[c] as number) + ((to[c] as number) - (from[c] as number)) * (at - step)
    data[4 * p + 3] = 255
  }
  return { data, largest }
}

/** A uniform grey. */
export function grey(width: number, height: number): Picture {
  return { width, height, data: new Uint8ClampedArray(width * height * 4).fill(128) }
}

function requireSameSize(a: Picture, b: Picture): void {
  if (a.width !== b.width || a.height !== b.height) throw new RangeError('the pictures differ in size')
}
