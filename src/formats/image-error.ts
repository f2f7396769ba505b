/** What keeps an image from becoming pixels. `message` continues a sentence that names the image. */
export class ImageError extends Error {
  readonly reason: 'undecodable' | 'unsupported' | 'too-many-pixels'

  constructor(reason: ImageError['reason'], message: string) {
    super(message)
    this.reason = reason
  }
}

const taken = 'JPEG, PNG, WebP, AVIF, GIF and TIFF are taken'

/** A format that is not taken at all. */
export function notTaken(format: string): ImageError {
  return new ImageError('unsupported', `is ${format}, which is not taken; ${taken}`)
}

/** A whole file of a format that is taken, but of a kind that is not. */
export function kindNotTaken(kind: string): ImageError {
  return new ImageError('unsupported', `is ${kind}, which is not taken; save it as 8-bit RGB`)
}

export function noImage(): ImageError {
  return new ImageError('undecodable', `is no image that can be told by its content; ${taken}`)
}

/** libvips keeps one text of errors for all threads, so what it says of an image may be about another. */
export function damaged(): ImageError {
  return new ImageError('undecodable', 'cannot be decoded; it is damaged or cut off')
}
