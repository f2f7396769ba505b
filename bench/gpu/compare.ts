import { percentile } from '../../tools/statistics.ts'

/** How far the tokens of some images are as expected. One that differs may change every token after it. */
export interface TokenAgreement {
  images: number
  /** Share of all tokens, and of images with all tokens, that are the same. */
  tokensEqual: number
  imagesEqual: number
  /** Of the images that differ, the position of the first token that does. */
  firstDifference: { least: number; median: number } | null
}

/** How far pixels are as expected, of 255. */
export interface PixelAgreement {
  valuesEqual: number
  mean: number
  largest: number
}

/** @param length tokens per image; both hold `[M,length]`, M at least 1 */
export function compareTokens(expected: Uint16Array, found: Uint16Array, length: number): TokenAgreement {
  const images = expected.length / length
  const equal = expected.filter((id, i) => id === found[i]).length
  const first = Array.from({ length: images }, (_, image) => {
    const row = expected.subarray(image * length, (image + 1) * length)
    return row.findIndex((id, i) => id !== found[image * length + i])
  })
    .filter((position) => position >= 0)
    .sort((a, b) => a - b)
  return {
    images,
    tokensEqual: equal / expected.length,
    imagesEqual: 1 - first.length / images,
    firstDifference: first.length === 0 ? null : { least: first[0] as number, median: percentile(first, 50) },
  }
}

/** @param found as many values as are expected, at least one */
export function comparePixels(expected: Uint8Array, found: Uint8Array): PixelAgreement {
  let equal = 0
  let sum = 0
  let largest = 0
  for (const [i, value] of expected.entries()) {
    const difference = Math.abs(value - (found[i] as number))
    if (difference === 0) equal++
    sum += difference
    largest = Math.max(largest, difference)
  }
  return { valuesEqual: equal / expected.length, mean: sum / expected.length, largest }
}
