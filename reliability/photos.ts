import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import sharp from 'sharp'
import { fixtures, readImages } from '../tools/images.ts'

/** A fixture's bytes, by its path under `test/fixtures`. */
export function fixture(path: string): Promise<Buffer<ArrayBuffer>> {
  return readFile(join(import.meta.dirname, '..', 'test', 'fixtures', path))
}

/** Real photos, small ones, as WebP. */
export async function smallPhotos(): Promise<Buffer<ArrayBuffer>[]> {
  return (await readImages(fixtures)).map(({ body }) => Buffer.from(body))
}

/** One photo in every accepted format and many of its variants, a few kilobytes each. */
export async function smallFiles(): Promise<Buffer[]> {
  const cat = sharp(await fixture('formats/cat.png')).resize(48, 32)
  const animated = sharp(await fixture('formats/animated.gif'), { animated: true }).resize(32, 24)
  return Promise.all(
    [
      cat.clone().jpeg(),
      cat
        .clone()
        .jpeg({ progressive: true })
        .withExif({ IFD0: { Artist: 'nobody' } }),
      cat.clone().toColourspace('cmyk').jpeg(),
      cat.clone().grayscale().jpeg({ optimiseCoding: true }).withMetadata({ orientation: 6 }),
      cat.clone().png(),
      cat.clone().png({ progressive: true }).withIccProfile('p3'),
      cat.clone().png({ palette: true, colours: 16 }),
      cat.clone().ensureAlpha(0.5).png(),
      cat.clone().toColourspace('rgb16').png(),
      cat.clone().webp(),
      cat.clone().webp({ lossless: true }),
      cat.clone().ensureAlpha(0.5).webp().withIccProfile('p3'),
      animated.clone().webp(),
      cat.clone().avif(),
      cat.clone().ensureAlpha(0.5).avif({ chromaSubsampling: '4:2:0' }),
      cat.clone().gif(),
      animated.clone().gif(),
      cat.clone().tiff({ compression: 'none' }),
      cat.clone().tiff({ compression: 'deflate', predictor: 'horizontal' }),
      cat.clone().tiff({ compression: 'lzw', tile: true, tileWidth: 16, tileHeight: 16 }),
      cat.clone().tiff({ compression: 'jpeg' }),
      cat.clone().tiff({ compression: 'packbits' }),
    ].map((image) => image.toBuffer()),
  )
}
