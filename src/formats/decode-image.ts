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

/** How to prepare images, and the size limit for opening them. */
export interface DecodeOptions extends Fit {
  /** The maximum number of pixels of an image, checked in its header before it is decoded. */
  maxPixels: number
}

// libvips would also open SVG, PDF and anything else that it was built with. Photos come in these six formats.
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
// Images are decoded in parallel in the thread pool, so more threads per image or a cache of past images would only cost.
sharp.concurrency(1)
sharp.cache(false)

/** The longest side that libpng opens, and the longest that libvips resizes to, in pixels. */
const [longestSide, longestResized] = [1_000_000, 100_000_000]

/** How a file becomes pixels. */
type Plan =
  /** Directly, like nearly all files. */
  | { way: 'direct'; bytes: Buffer }
  /** Through an 8-bit PNG in the file's own colour space, without the last band if that is not alpha. */
  | { way: 'in 8 bits'; bytes: Buffer; grey: boolean; extraBand: boolean }
  /** Through a PNG of the model's size with the given profile. */
  | { way: 'with a profile'; bytes: Buffer; deep: boolean; profile: Buffer }
  /** From floating-point samples. */
  | { way: 'from floats'; bytes: Buffer; grey: boolean; profile?: Buffer }

/**
 * Converts an image file to the pixels the model takes: first frame, EXIF orientation applied, sRGB, alpha flattened, shorter
 * side resized and the centre cropped as the options say. `docs/images.md` lists what is supported.
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

/** Reads the header, which costs nothing for a JPEG and microseconds for the others. */
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
 * Resizes an intermediate image early, so that later steps have little to do. Only sharp's own `cover` keeps the depth and
 * the colours of an image unchanged.
 */
async function fittedEarly(image: Sharp, options: DecodeOptions): Promise<Sharp> {
  return fitsAsCover(options) ? fitted(image, options) : image
}

/** Options for an intermediate file, which may exceed the pixel limit for uploads. */
function afterFitting(options: DecodeOptions): DecodeOptions {
  return { ...options, maxPixels: Math.max(options.maxPixels, options.size ** 2) }
}

/** libvips checks the dimensions in the header against the limit before it decodes anything. */
function open(bytes: Buffer, { maxPixels }: DecodeOptions, special: SharpOptions = {}): Sharp {
  return sharp(bytes, { limitInputPixels: maxPixels, failOn: 'error', autoOrient: true, ...special })
}

async function toPixels(image: Sharp, options: DecodeOptions): Promise<Buffer> {
  const flat = image.flatten({ background: '#ffffff' })
  return (await fitted(flat, options)).toColourspace('srgb').raw({ depth: 'uchar' }).toBuffer()
}

/**
 * sharp converts 16-bit RGB with a profile to Display P3, ignores the profile of 16-bit grey, and treats every second or
 * fourth band as alpha. So this makes the 8-bit form of the file, which is then decoded as usual.
 *
 * The orientation is not applied here: when sharp 0.35.5 turns a picture upright, it frees the profile it should keep.
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
 * Decodes floating-point samples from 0 to 1. libvips would read them as linear light (RGB) or as 0 to 255 (grey).
 *
 * @throws ImageError when they go well beyond 0 to 1, because their meaning is then unknown
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
  // Resizing itself overshoots a little.
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

/** Why decoding failed. Runs only then: reading a small photo's header takes a fifth of the time of decoding it. */
async function reasonOf(bytes: Buffer, { size, maxPixels }: DecodeOptions): Promise<ImageError> {
  const notDecoded = isJpeg(bytes) ? jpegNotDecoded(bytes) : undefined
  if (notDecoded !== undefined) return kindNotTaken(notDecoded)
  try {
    const [width, height] = await sizeOf(bytes)
    if (width * height > maxPixels) {
      const message = `has too many pixels: ${width} x ${height}, and ${maxPixels} is the limit (--max-pixels)`
      return new ImageError('too-many-pixels', message)
    }
    const [shorter, longer] = [Math.min(width, height), Math.max(width, height)]
    if (longer > longestSide || (longer / shorter) * size > longestResized) {
      return new ImageError('too-many-pixels', `is too long to resize: ${width} x ${height} pixels`)
    }
    return damaged()
  } catch (error) {
    const name = otherFormat(bytes)
    if (name !== undefined) return notTaken(name)
    return error instanceof Error && error.message.includes('unsupported image format') ? noImage() : damaged()
  }
}

/** libpng and libvips do not open images that are too long, so easy headers are read here. */
async function sizeOf(bytes: Buffer): Promise<[width: number, height: number]> {
  const told = isPng(bytes) ? pngSize(bytes) : isTiff(bytes) ? tiffSize(bytes) : undefined
  if (told !== undefined) return told
  const { width, height } = await sharp(bytes, { limitInputPixels: false }).metadata()
  return [width, height]
}
