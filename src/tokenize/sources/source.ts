/** Where a source stands, in JSON: `image` images are behind, and in a tar `shard` and `offset` say where the next one begins. */
export interface Position {
  image: number
  shard?: number
  offset?: number
}

/** One image of a data set, not read yet. */
export interface Item {
  /** Position among the images of the source, 0, 1, ... */
  index: number
  /** Names the image in its source. */
  key: string
  /** 0..2,147,483,647; undefined where the data set has no labels. */
  label: number | undefined
  /** Where the source goes on after this image. */
  next: Position
  /** How much of the source's `size` is behind after this image. */
  done: number
  /**
   * The image file.
   * @throws ItemError if this image cannot be read, or has no label in a data set with labels
   */
  read(): Promise<Buffer>
}

/** A data set: images in an order that does not change. */
export interface Source {
  readonly kind: 'folder' | 'list' | 'tar' | 'parquet'
  /** How much there is: the number of images, or the bytes of files whose images nobody has counted. */
  readonly size: { unit: 'images' | 'bytes'; count: number }
  /** sha256 of the listing: paths and labels, or names and sizes of shards, wherever they lie. */
  readonly digest: string
  /** Whether images have labels. */
  readonly labels: boolean
  /** Class names by label, where they are known. */
  readonly classes: readonly string[] | undefined
  /**
   * The images in order.
   * @throws Error with one sentence if the source cannot be read on
   */
  items(from: Position): AsyncIterable<Item>
}

/** A contiguous slice of a source: the K-th of N. */
export interface Part {
  index: number
  count: number
}

/** The items of a slice of `count` items: where it starts and ends. */
export function sliceOf(count: number, { index, count: parts }: Part): [start: number, end: number] {
  return [Math.floor((count * index) / parts), Math.floor((count * (index + 1)) / parts)]
}

/** File suffixes of images, in lower case. What a file holds decides its format, not its suffix. */
const suffixes = ['.jpg', '.jpeg', '.png', '.webp', '.avif', '.gif', '.tif', '.tiff']

/** Whether a suffix, with its dot, is an image's. */
export function isImageSuffix(suffix: string): boolean {
  return suffixes.includes(suffix.toLowerCase())
}

/** Whether a file name ends as an image's does. */
export function isImageName(name: string): boolean {
  return isImageSuffix(suffixOf(name))
}

/** A path without its image suffix: an image's key. */
export function withoutSuffix(path: string): string {
  return isImageName(path) ? path.slice(0, -suffixOf(path).length) : path
}

function suffixOf(path: string): string {
  return /\.[^./]+$/.exec(path)?.[0] ?? ''
}

/**
 * Keys of image paths: without the suffix, except where that is also what another path becomes, or is another path.
 * @param paths all different
 */
export function keysOf(paths: readonly string[]): string[] {
  const seen = new Set<string>()
  const twice = new Set<string>()
  for (const path of paths) {
    const key = withoutSuffix(path)
    if (seen.has(key)) twice.add(key)
    else seen.add(key)
  }
  // A key may also equal a path that is kept whole: `a.jpg.webp` beside `a.jpg` and `a.png`.
  const whole = new Set(paths)
  return paths.map((path) => {
    const key = withoutSuffix(path)
    return twice.has(key) || whole.has(key) ? path : key
  })
}

/** Orders text by its code points, as Python does; JavaScript's own order differs beyond 65,535. */
export function byCodePoint(a: string, b: string): number {
  if (a === b) return 0
  // Only surrogates are out of order among UTF-16 code units.
  if (!/[\ud800-\udfff]/.test(a) && !/[\ud800-\udfff]/.test(b)) return a < b ? -1 : 1
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
