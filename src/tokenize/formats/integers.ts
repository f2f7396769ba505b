/** Token ids and labels to and from little-endian bytes, as every machine that Node.js runs on for us has them. */

/** The ids' own bytes, uint16: a view. */
export function uint16Bytes(ids: Uint16Array): Uint8Array {
  return new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength)
}

/** Ids from uint16 bytes: a copy. */
export function uint16Of(bytes: Uint8Array): Uint16Array {
  const ids = new Uint16Array(bytes.length / 2)
  uint16Bytes(ids).set(bytes)
  return ids
}

/** int64 bytes of integers in 0..2^32-1. */
export function int64Bytes(values: ArrayLike<number>): Uint8Array {
  const halves = new Uint32Array(2 * values.length)
  for (let i = 0; i < values.length; i++) halves[2 * i] = values[i] as number
  return new Uint8Array(halves.buffer)
}

/** Integers from int64 bytes; those outside 0..2^32-1 become NaN, so that they are no valid id or label. */
export function int64Of(bytes: Uint8Array): number[] {
  const halves = new Uint32Array(bytes.length / 4)
  new Uint8Array(halves.buffer).set(bytes)
  return Array.from({ length: bytes.length / 8 }, (_, i) =>
    halves[2 * i + 1] === 0 ? (halves[2 * i] as number) : Number.NaN,
  )
}
