import sharp, { type Sharp } from 'sharp'
import { hasBrands, readAvif } from './avif.ts'
import { isGif, withTransparency } from './gif.ts'
import { damaged, ImageError, kindNotTaken, noImage, notTaken } from './image-error.ts'
import { isJpeg, jpegNotDecoded } from './jpeg.ts'
import { otherFormat } from './other-formats.ts'
import { isPng, pngSize, readPng } from './png.ts'

export { ImageError } from './image-error.ts'

/** What to bring images to, and what is too large to open. The rest of the preparation is the bundle format's. */
export interface DecodeOptions {
  /** Height and width of the result, in pixels. */
  size: number
  /** Most pixels an image may have. Told from its header, before it is decoded. */
  maxPixels: number
}

// libvips would open SVG, PDF and whatever else it was built with. Only these six are anybody's photos.
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({
  operation: [
    'VipsForeignLoadJpeg',
    'VipsForeignLoadPng',
    'VipsForeignLoadWebp',
    'VipsForeignLoadHeif',
    'VipsForeignLoadNsgif',
    'VipsForeignLoadTiff',
  ],
})
// Images run side by side in the thread pool, so threads inside an image, and memory of past ones, only cost.
sharp.concurrency(1)
sharp.cache(false)

/** The longest side that libpng opens, and the longest that libvips resizes to. */
const [longestSide, longestResized] = [1_000_000, 100_000_000]

/**
 * An image file to the pixels the model takes: first frame, EXIF orientation applied, sRGB, alpha flattened, shorter
 * side resized by lanczos3 and the centre cropped.
 *
 * @returns uint8 [size, size, 3], C order
 * @throws ImageError
 */
export async function decodeImage(bytes: Buffer, options: DecodeOptions): Promise<Buffer> {
  if (bytes.length === 0) throw new ImageError('undecodable', 'is empty')
  try {
    return await toPixels(open(prepared(bytes), options), options)
  } catch (error) {
    throw error instanceof ImageError ? error : await reasonOf(bytes, options)
  }
}

/** The file, changed where libvips overlooks what it says. Costs nothing for a JPEG and microseconds for the others. */
function prepared(bytes: Buffer): Buffer {
  if (isPng(bytes)) return readPng(bytes)
  if (isGif(bytes)) return withTransparency(bytes)
  if (hasBrands(bytes)) return readAvif(bytes)
  return bytes
}

/** libvips holds the header's dimensions against the limit before it decodes anything. */
function open(bytes: Buffer, { maxPixels }: DecodeOptions): Sharp {
  return sharp(bytes, { limitInputPixels: maxPixels, failOn: 'error', autoOrient: true })
}

function fitted(image: Sharp, { size }: DecodeOptions): Sharp {
  return image
    .flatten({ background: '#ffffff' })
    .resize(size, size, { fit: 'cover', position: 'centre', kernel: 'lanczos3' })
}

function toPixels(image: Sharp, options: DecodeOptions): Promise<Buffer> {
  return fitted(image, options).toColourspace('srgb').raw({ depth: 'uchar' }).toBuffer()
}

/** Why a file became no pixels. Asked only then: reading a small photo's header by itself is a fifth of decoding it. */
async function reasonOf(bytes: Buffer, { size, maxPixels }: DecodeOptions): Promise<ImageError> {
  const notDecoded = isJpeg(bytes) ? jpegNotDecoded(bytes) : undefined
  if (notDecoded !== undefined) return kindNotTaken(notDecoded)
  try {
    const [width, height] = await sizeOf(bytes)
    if (width * height > maxPixels) {
      const message = `has too many pixels: ${width} x ${height}, and ${maxPixels} is the limit`
      return new ImageError('too-many-pixels', message)
    }
    const [shorter, longer] = [Math.min(width, height), Math.max(width, height)]
    if (longer > longestSide || (longer / shorter) * size > longestResized) {
      return new ImageError('too-many-pixels', `is too long to be resized: ${width} x ${height} pixels`)
    }
    return damaged()
  } catch (error) {
    const name = otherFormat(bytes)
    if (name !== undefined) return notTaken(name)
    return error instanceof Error && error.message.includes('unsupported image format') ? noImage() : damaged()
  }
}

/** libpng and libvips do not open what is too long, so where the header is easily read it is read here. */
async function sizeOf(bytes: Buffer): Promise<[width: number, height: number]> {
  const told = isPng(bytes) ? pngSize(bytes) : undefined
  if (told !== undefined) return told
  const { width, height } = await sharp(bytes, { limitInputPixels: false }).metadata()
  return [width, height]
}
