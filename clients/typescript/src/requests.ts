import type { components } from './openapi.ts'

export type Info = components['schemas']['Info']
/** An image file: JPEG, PNG, WebP, AVIF, GIF or TIFF. A `File` is a `Blob`. */
export type Image = Blob | Uint8Array<ArrayBuffer>
/** A sequence of token ids, whole or a prefix. */
export type Row = readonly number[] | Uint16Array
/** A list in memory, or one that is read piece by piece. */
export type Many<T> = Iterable<T> | AsyncIterable<T>

/** Consecutive items of a list that go in one request. */
export interface Group<T> {
  /** Index in the list of the first of them. */
  first: number
  items: T[]
}

/**
 * Items of a request, at most: enough to keep engines busy, few enough to be done well within a deadline. The service puts
 * those of several requests into one batch.
 */
const MOST_ITEMS = 64
/** Maximum overhead in bytes: of a body beyond its parts, and of a part beyond its content. */
const OVERHEAD = 256

/** Cuts images into requests within the service's limits. One that is too large for any request is sent alone, and is refused. */
export function imageGroups(images: Many<Image>, info: Info, concurrency: number): AsyncGenerator<Group<Image>> {
  const size = (image: Image) => OVERHEAD + (image instanceof Blob ? image.size : image.byteLength)
  return groups(images, size, mostItems(info, concurrency), info.limits.bodyBytes - OVERHEAD)
}

/** Cuts rows into JSON bodies within the service's limits. */
export async function* rowGroups(rows: Many<Row>, info: Info, concurrency: number): AsyncGenerator<Group<number[]>> {
  const arrays = (async function* () {
    for await (const row of rows) yield Array.from(row)
  })()
  const size = (row: number[]) => JSON.stringify(row).length + 1
  const most = Math.min(info.limits.jsonBodyBytes, info.limits.bodyBytes) - OVERHEAD
  yield* groups(arrays, size, mostItems(info, concurrency), most)
}

/** The number of items per request with which all requests in flight fit into the service's queue. */
export function mostItems({ limits }: Info, concurrency: number): number {
  return Math.max(1, Math.min(MOST_ITEMS, limits.images, Math.floor(limits.queue / concurrency)))
}

async function* groups<T>(
  items: Many<T>,
  sizeOf: (item: T) => number,
  most: number,
  mostBytes: number,
): AsyncGenerator<Group<T>> {
  let group: Group<T> = { first: 0, items: [] }
  let bytes = 0
  for await (const item of items) {
    const size = sizeOf(item)
    if (group.items.length > 0 && (group.items.length === most || bytes + size > mostBytes)) {
      yield group
      group = { first: group.first + group.items.length, items: [] }
      bytes = 0
    }
    group.items.push(item)
    bytes += size
  }
  if (group.items.length > 0) yield group
}
