/** Maximum number of blocks read before the first frame. */
const mostBlocks = 4096
/** Maximum number of sub-blocks per block: nearly all hold 255 bytes. */
const mostSubBlocks = 2 ** 20

/** A frame of one transparent pixel. */
const transparentFrame = Buffer.from([
  ...[0x21, 0xf9, 4, 1, 0, 0, 0, 0], // graphic control extension: colour 0 is transparent
  ...[0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0x80], // image descriptor: 1 x 1 at the corner, a table of two colours
  ...[0, 0, 0, 0, 0, 0],
  ...[2, 2, 0x44, 1, 0], // LZW: clear, 0, end
])

export function isGif(bytes: Buffer): boolean {
  const start = bytes.toString('latin1', 0, 6)
  return start === 'GIF89a' || start === 'GIF87a'
}

/**
 * libvips gives a GIF an alpha channel only if some frame has a transparent colour. Otherwise the part of the canvas that
 * the first frame does not cover becomes black. So such a file gets a second frame with a transparent colour.
 *
 * @returns the same bytes if the first frame covers the canvas, or if there is no first frame
 */
export function withTransparency(bytes: Buffer): Buffer {
  const u16 = (at: number) => bytes.readUInt16LE(at)
  const tableSize = (flags: number) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0)
  if (bytes.length < 13) return bytes
  let at = 13 + tableSize(bytes[10] ?? 0)
  for (let block = 0; block < mostBlocks && bytes[at] === 0x21; block++) at = endOfSubBlocks(bytes, at + 2)
  if (bytes[at] !== 0x2c || at + 10 > bytes.length) return bytes
  const covers = u16(at + 1) === 0 && u16(at + 3) === 0 && u16(at + 5) >= u16(6) && u16(at + 7) >= u16(8)
  if (covers) return bytes
  const end = endOfSubBlocks(bytes, at + 10 + tableSize(bytes[at + 9] ?? 0) + 1)
  if (end > bytes.length) return bytes
  return Buffer.concat([bytes.subarray(0, end), transparentFrame, bytes.subarray(end)])
}

/** Where a chain of sub-blocks ends: beyond the file if it is cut off or has too many. */
function endOfSubBlocks(bytes: Buffer, start: number): number {
  let at = start
  for (let count = 0; bytes[at]; at += 1 + (bytes[at] ?? 0)) {
    if (++count > mostSubBlocks) return bytes.length + 1
  }
  return at + 1
}
