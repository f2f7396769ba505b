import type { BatchPlan } from './protocol.ts'

/** The data of a tensor, row by row. */
export type Numbers = Uint8Array | Int32Array | Float32Array

/** Divides rows into even parts of at most `most` rows: where each part starts and ends. */
export function partsOf(rows: number, most: number): [start: number, end: number][] {
  const count = Math.ceil(rows / most)
  const edge = (i: number) => Math.floor((i * rows) / count)
  return Array.from({ length: count }, (_, i) => [edge(i), edge(i + 1)])
}

/** The rows of all parts in order; a single part is returned unchanged. */
export function joinParts(parts: Numbers[]): Numbers {
  const [first, ...others] = parts
  if (first === undefined) throw new RangeError('nothing to join')
  if (others.length === 0) return first
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  const joined = newLike(first, length)
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}

/** Pads `rows` rows of numbers with rows of zeros up to `count`; returns the array itself if none is missing. */
export function fillRows(data: Numbers, rows: number, count: number): Numbers {
  if (rows === count) return data
  const filled = newLike(data, (data.length / rows) * count)
  filled.set(data)
  return filled
}

/** The number of rows that a graph runs on for `rows` rows of a batch. */
export function rowsToRun(rows: number, { sizes }: BatchPlan): number {
  return sizes.find((size) => size >= rows) ?? rows
}

function newLike(example: Numbers, length: number): Numbers {
  return new (example.constructor as new (length: number) => Numbers)(length)
}
