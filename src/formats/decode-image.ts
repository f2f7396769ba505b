import sharp from 'sharp'
import { type Fit, fitted } from './fit.ts'

/** What to bring images to, and what is too large to open. The rest of the preparation is the bundle format's. */
export interface DecodeOptions extends Fit {
  /** Most pixels an image may have. Told from its header, before it is decoded. */
  maxPixels: number
}

/** What keeps an image from becoming pixels. `message` continues a sentence that names the image. */
export class ImageError extends Error {
  readonly reason: 'undecodable' | 'unsupported' | 'too-many-pixels'

  constructor(reason: ImageError['reason'], message: string) {
    super(message)
    this.reason = reason
  }
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

const taken = 'JPEG, PNG, WebP, AVIF, GIF and TIFF are taken'

/** Files that people do send as images, told apart from garbage by the bytes at an offset, to be refused by name. */
const refused: [name: string, offset: number, signature: string][] = [
  ['PDF', 0, '%PDF-'],
  ['BMP', 0, 'BM'],
  ['ICO', 0, '\0\0\x01\0'],
  ['HEIC', 4, 'ftyphe'],
  ['HEIC', 4, 'ftypmif1'],
  ['JPEG XL', 0, '\xff\x0a'],
  ['JPEG XL', 4, 'JXL '],
  ['JPEG 2000', 4, 'jP  '],
  ['PSD', 0, '8BPS'],
]
const svg = /^\s*(<\?xml[^>]*>\s*)?(<!--[\s\S]*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]/i

/**
 * An image file to the pixels the model takes: first frame, EXIF orientation applied, sRGB, alpha flattened, shorter
 * side resized and the centre cropped as the options say.
 *
 * @returns uint8 [size, size, 3], C order
 * @throws ImageError
 */
export async function decodeImage(bytes: Buffer, options: DecodeOptions): Promise<Buffer> {
  if (bytes.length === 0) throw new ImageError('undecodable', 'is empty')
  try {
    // libvips holds the header's dimensions against the limit before it decodes anything.
    const image = sharp(bytes, { limitInputPixels: options.maxPixels, failOn: 'error', autoOrient: true })
    return await (await fitted(image.flatten({ background: '#ffffff' }), options))
      .toColourspace('srgb')
      .raw({ depth: 'uchar' })
      .toBuffer()
  } catch {
    throw await reasonOf(bytes, options.maxPixels)
  }
}

/** Why a file became no pixels. Asked only then: reading a small photo's header by itself is a fifth of decoding it. */
async function reasonOf(bytes: Buffer, maxPixels: number): Promise<ImageError> {
  try {
    const { width, height } = await sharp(bytes, { limitInputPixels: false }).metadata()
    if (width * height <= maxPixels) return damaged()
    const message = `has too many pixels: ${width} x ${height}, and ${maxPixels} is the limit`
    return new ImageError('too-many-pixels', message)
  } catch (error) {
    const start = bytes.toString('latin1', 0, 1024)
    const known = refused.find(([, offset, signature]) => start.startsWith(signature, offset))
    const name = svg.test(start) ? 'SVG' : known?.[0]
    if (name !== undefined) return new ImageError('unsupported', `is ${name}, which is not taken; ${taken}`)
    if (error instanceof Error && error.message.includes('unsupported image format')) {
      return new ImageError('undecodable', `is no image that can be told by its content; ${taken}`)
    }
    return damaged()
  }
}

/** libvips keeps one text of errors for all threads, so what it says of an image may be about another. */
function damaged(): ImageError {
  return new ImageError('undecodable', 'cannot be decoded; it is damaged or cut off')
}
