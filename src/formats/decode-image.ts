import sharp, { type Sharp, type SharpOptions } from 'sharp'
import { hasBrands, readAvif } from './avif.ts'
import { type Fit, fitsAsCover, fitted } from './fit.ts'
import { isGif, withTransparency } from './gif.ts'
import { damaged, ImageError, kindNotTaken, noImage, notTaken } from './image-error.ts'
import { isJpeg, jpegNotDecoded } from './jpeg.ts'
import { otherFormat } from './other-formats.ts'
import { isPng, pngSize, readPng, withProfile } from './png.ts'
import { isTiff, readTiff, tiffSize } from './tiff.ts'

export { ImageError } from './image-error.ts'

/** What to bring images to, and what is too large to open. The rest of the preparation is the bundle format's. */
export interface DecodeOptions extends Fit {
  /** The maximum number of pixels of an image, checked in its header before it is decoded. */
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

/** How a file becomes pixels. */
type Plan =
  /** At once, as nearly all do. */
  | { way: 'direct'; bytes: Buffer }
  /** By a PNG of 8 bits in the file's own colour space, without the last band where that is no alpha. */
  | { way: 'in 8 bits'; bytes: Buffer; grey: boolean; extraBand: boolean }
  /** By a PNG of the model's size that has the given profile. */
  | { way: 'with a profile'; bytes: Buffer; deep: boolean; profile: Buffer }
  /** From floating-point samples. */
  | { way: 'from floats'; bytes: Buffer; grey: boolean; profile?: Buffer }

/**
 * An image file to the pixels the model takes: first frame, EXIF orientation applied, sRGB, alpha flattened, shorter
 * side resized and the centre cropped as the options say. `docs/images.md` says which kinds are taken and how.
 *
 * @returns uint8 [size, size, 3], C order
 * @throws ImageError
 */
export async function decodeImage(bytes: Buffer, options: DecodeOptions): Promise<Buffer> {
  if (bytes.length === 0) throw new ImageError('undecodable', 'is empty')
  try {
    const plan = planOf(bytes)
    switch (plan.way) {
      case 'direct':
        return await toPixels(open(plan.bytes, options), options)
      case 'in 8 bits':
        return await toPixels(open(await inEightBits(plan, options), options), options)
      case 'with a profile': {
        const png = (await fittedEarly(open(plan.bytes, options), options))
          .toColourspace(plan.deep ? 'rgb16' : 'srgb')
          .png()
        return await decodeImage(withProfile(await png.toBuffer(), plan.profile), afterFitting(options))
      }
      case 'from floats':
        return await fromFloats(plan, options)
    }
  } catch (error) {
    throw error instanceof ImageError ? error : await reasonOf(bytes, options)
  }
}

/** What is asked of the header, which costs nothing for a JPEG and microseconds for the others. */
function planOf(bytes: Buffer): Plan {
  if (isPng(bytes)) {
    const { deepProfile, grey, bytes: file } = readPng(bytes)
    return deepProfile ? { way: 'in 8 bits', bytes: file, grey, extraBand: false } : { way: 'direct', bytes: file }
  }
  if (isTiff(bytes)) {
    const { float, extraBand, deep, grey, profile } = readTiff(bytes)
    if (float) return { way: 'from floats', bytes, grey, ...(profile && { profile }) }
    if (extraBand || (deep && profile)) return { way: 'in 8 bits', bytes, grey, extraBand }
    return { way: 'direct', bytes }
  }
  if (isGif(bytes)) return { way: 'direct', bytes: withTransparency(bytes) }
  if (hasBrands(bytes)) {
    const { deep, hasProfile, profile, bytes: file } = readAvif(bytes)
    if (profile) return { way: 'with a profile', bytes: file, deep, profile }
    if (deep && hasProfile) return { way: 'in 8 bits', bytes: file, grey: false, extraBand: false }
    return { way: 'direct', bytes: file }
  }
  return { way: 'direct', bytes }
}

/**
 * Fits an intermediate image, so that the steps after it have little to do. Only sharp's own `cover` keeps the depth and
 * the colours of an image as they are.
 */
async function fittedEarly(image: Sharp, options: DecodeOptions): Promise<Sharp> {
  return fitsAsCover(options) ? fitted(image, options) : image
}

/** What is asked of an intermediate file, which may have more pixels than the limit on what is sent. */
function afterFitting(options: DecodeOptions): DecodeOptions {
  return { ...options, maxPixels: Math.max(options.maxPixels, options.size ** 2) }
}

/** libvips holds the header's dimensions against the limit before it decodes anything. */
function open(bytes: Buffer, { maxPixels }: DecodeOptions, special: SharpOptions = {}): Sharp {
  return sharp(bytes, { limitInputPixels: maxPixels, failOn: 'error', autoOrient: true, ...special })
}

async function toPixels(image: Sharp, options: DecodeOptions): Promise<Buffer> {
  const flat = image.flatten({ background: '#ffffff' })
  return (await fitted(flat, options)).toColourspace('srgb').raw({ depth: 'uchar' }).toBuffer()
}

/**
 * sharp brings 16-bit RGB that has a profile to Display P3 and ignores the profile of 16-bit grey. It takes every second or
 * fourth band for alpha. What comes out of here is the 8-bit form of the file, which then goes the usual way.
 *
 * It keeps its orientation: sharp 0.35.5 frees the profile that it is to keep when it turns a picture upright.
 */
function inEightBits(
  plan: { bytes: Buffer; grey: boolean; extraBand: boolean },
  options: DecodeOptions,
): Promise<Buffer> {
  const image = open(plan.bytes, options, { autoOrient: false })
    .keepIccProfile()
    .keepExif()
    .toColourspace(plan.grey ? 'b-w' : 'srgb')
  return (plan.extraBand ? image.removeAlpha() : image).png({ compressionLevel: 0 }).toBuffer()
}

/**
 * Floating-point samples of 0 to 1 as such. libvips would take them for linear light (RGB) or for 0 to 255 (grey).
 *
 * @throws ImageError when they go well beyond 0 to 1, so that nobody can know what they mean
 */
async function fromFloats(
  plan: { bytes: Buffer; grey: boolean; profile?: Buffer },
  options: DecodeOptions,
): Promise<Buffer> {
  const space = plan.grey ? 'srgb' : 'scrgb'
  const image = open(plan.bytes, options, { ignoreIcc: true })
  const { data, info } = await (await fittedEarly(image, options))
    .pipelineColourspace(space)
    .toColourspace(space)
    .raw({ depth: 'float' })
    .toBuffer({ resolveWithObject: true })
  const samples = new Float32Array(data.buffer, data.byteOffset, data.length / 4)
  // Resizing itself goes a little beyond.
  if (!samples.every((value) => value > -1 && value < 2)) {
    throw kindNotTaken('a TIFF with floating-point samples outside 0 to 1')
  }
  const deep = Uint16Array.from(samples, (value) => Math.round(65_535 * Math.min(1, Math.max(0, value))))
  const { width, height, channels } = info
  const whole = sharp(deep, { raw: { width, height, channels } })
  if (plan.profile === undefined) return toPixels(whole, options)
  const png = await whole
    .toColourspace(plan.grey ? 'grey16' : 'rgb16')
    .png()
    .toBuffer()
  return decodeImage(withProfile(png, plan.profile), afterFitting(options))
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
  const told = isPng(bytes) ? pngSize(bytes) : isTiff(bytes) ? tiffSize(bytes) : undefined
  if (told !== undefined) return told
  const { width, height } = await sharp(bytes, { limitInputPixels: false }).metadata()
  return [width, height]
}
