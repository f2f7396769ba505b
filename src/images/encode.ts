import sharp from 'sharp'

export type ImageFormat = 'png' | 'webp' | 'jpeg'

/**
 * Pixels to an image file.
 *
 * @param pixels uint8 [size, size, 3], C order, sRGB
 * @param quality 1 to 100, of webp and jpeg; png is lossless
 */
export function encodeImage(pixels: Uint8Array, size: number, format: ImageFormat, quality: number): Promise<Buffer> {
  const image = sharp(pixels, { raw: { width: size, height: size, channels: 3 } })
  // sharp quantises a png to a palette when it is given a quality.
  return image.toFormat(format, format === 'png' ? {} : { quality }).toBuffer()
}
