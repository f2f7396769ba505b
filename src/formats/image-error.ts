/** Why an image cannot be decoded. `message` continues a sentence that names the image. */
export class ImageError extends Error {
  readonly reason: 'undecodable' | 'unknown-format' | 'unsupported' | 'too-many-pixels'

  constructor(reason: ImageError['reason'], message: string) {
    super(message)
    this.reason = reason
  }
}

const supported = 'JPEG, PNG, WebP, AVIF, GIF and TIFF are supported'

/** A known format that is not supported at all. */
export function notTaken(format: string): ImageError {
  return new ImageError('unsupported', `is ${format}, which is not supported; ${supported}`)
}

/** An intact file of a supported format, but of a kind that is not supported. */
export function kindNotTaken(kind: string): ImageError {
  return new ImageError('unsupported', `is ${kind}, which is not supported; save it as 8-bit RGB`)
}

/** Content that matches no known format. */
export function noImage(): ImageError {
  return new ImageError('unknown-format', `is not an image in a known format; ${supported}`)
}

/** libvips shares one error text between all threads, so its message may be about another image. */
export function damaged(): ImageError {
  return new ImageError('undecodable', 'cannot be decoded; it is damaged or cut off')
}
