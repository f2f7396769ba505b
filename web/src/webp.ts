import { contextOf, pixelsOf } from './canvas.ts'
import { type Picture, psnr } from './pixels.ts'

/** A small picture as a WebP file, and what it looks like scaled back up. */
export interface Thumbnail {
  /** Size of the whole file, in bytes. */
  bytes: number
  /** Pixels per side, in the file. */
  side: number
  /** PSNR compared with the original, in dB. */
  psnr: number
  picture: Picture
}

const sides = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512]
const qualities = [0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9]

/**
 * Tries sizes and qualities, and keeps every file that is better than all smaller ones.
 *
 * @param encode makes a file of so many pixels a side in a quality from 0 to 1; it grows with either
 * @param most bytes that a file may have
 * @returns the files by their bytes, and so by their PSNR
 */
export async function search(
  encode: (side: number, quality: number) => Promise<Thumbnail>,
  { size, most }: { size: number; most: number },
): Promise<Thumbnail[]> {
  const found: Thumbnail[] = []
  for (const side of sides.filter((side) => side <= size)) {
    for (const quality of qualities) {
      const thumbnail = await encode(side, quality)
      if (thumbnail.bytes > most) break
      found.push(thumbnail)
    }
  }
  const best: Thumbnail[] = []
  for (const thumbnail of found.sort((a, b) => a.bytes - b.bytes || b.psnr - a.psnr)) {
    if (thumbnail.psnr > (best.at(-1)?.psnr ?? Number.NEGATIVE_INFINITY)) best.push(thumbnail)
  }
  return best
}

/** The best file of at most this many bytes; undefined if none is that small. */
export function bestWithin(thumbnails: readonly Thumbnail[], bytes: number): Thumbnail | undefined {
  return thumbnails.findLast((thumbnail) => thumbnail.bytes <= bytes)
}

/**
 * Thumbnails of a square picture, made by the browser.
 *
 * @returns undefined if the browser cannot write WebP
 */
export async function thumbnailsOf(
  original: HTMLCanvasElement,
  most: number,
  signal: AbortSignal,
): Promise<Thumbnail[] | undefined> {
  const size = original.width
  const pixels = pixelsOf(original)
  if ((await toWebp(original, 0.5)) === undefined) return undefined
  const encode = async (side: number, quality: number): Promise<Thumbnail> => {
    signal.throwIfAborted()
    const small = contextOf(side, side)
    small.drawImage(original, 0, 0, side, side)
    const file = (await toWebp(small.canvas, quality)) as Blob
    const large = contextOf(size, size)
    const bitmap = await createImageBitmap(file)
    large.drawImage(bitmap, 0, 0, size, size)
    bitmap.close()
    const picture = pixelsOf(large.canvas)
    return { bytes: file.size, side, psnr: psnr(pixels, picture), picture }
  }
  return search(encode, { size, most })
}

/** Browsers that do not know a type write PNG instead. */
async function toWebp(canvas: HTMLCanvasElement, quality: number): Promise<Blob | undefined> {
  const file = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, 'image/webp', quality))
  if (file?.type !== 'image/webp') return undefined
  return new Blob([withoutExtras(new Uint8Array(await file.arrayBuffer()))], { type: file.type })
}

/**
 * A WebP file with only its picture. Chromium adds a colour profile of 456 bytes, more than all tokens take.
 *
 * @param file any WebP file; an animated or transparent one stays as it is
 */
export function withoutExtras(file: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const fourCc = (at: number) => String.fromCharCode(...file.subarray(at, at + 4))
  let picture: Uint8Array | undefined
  for (let at = 12; at + 8 <= file.length; ) {
    const size = view.getUint32(at + 4, true)
    // Chunks are padded to an even size.
    const end = at + 8 + size + (size % 2)
    const name = fourCc(at)
    if (name === 'ANIM' || name === 'ALPH') return file
    if (name === 'VP8 ' || name === 'VP8L') picture = file.subarray(at, end)
    at = end
  }
  if (picture === undefined) return file
  const plain = new Uint8Array(12 + picture.length)
  plain.set(file.subarray(0, 12))
  plain.set(picture, 12)
  new DataView(plain.buffer).setUint32(4, plain.length - 8, true)
  return plain
}
