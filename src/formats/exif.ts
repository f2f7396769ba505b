const orientationTag = 0x0112
const prefix = 'Exif\0\0'
/** Maximum number of fields read in a directory. */
const mostFields = 1024

/**
 * Reads the orientation in an EXIF block: how the picture is rotated and mirrored.
 *
 * @param block with or without the `Exif` prefix that JPEG adds
 * @returns 1 (upright, also when there is none) to 8
 */
export function orientationOf(block: Buffer): number {
  const exif = block.toString('latin1', 0, prefix.length) === prefix ? block.subarray(prefix.length) : block
  const order = exif.toString('latin1', 0, 2)
  if ((order !== 'II' && order !== 'MM') || exif.length < 8) return 1
  const u16 = (at: number) => (order === 'II' ? exif.readUInt16LE(at) : exif.readUInt16BE(at))
  const u32 = (at: number) => (order === 'II' ? exif.readUInt32LE(at) : exif.readUInt32BE(at))
  const directory = u32(4)
  if (directory + 2 > exif.length) return 1
  const count = Math.min(u16(directory), mostFields)
  for (let at = directory + 2; at + 12 <= Math.min(exif.length, directory + 2 + count * 12); at += 12) {
    if (u16(at) !== orientationTag) continue
    const value = u16(at + 2) === 4 ? u32(at + 8) : u16(at + 8)
    return value >= 1 && value <= 8 ? value : 1
  }
  return 1
}

/** The shortest EXIF block with only an orientation. */
export function exifOf(orientation: number): Buffer {
  const block = Buffer.alloc(26)
  block.write('MM\0*', 'latin1')
  block.writeUInt32BE(8, 4)
  block.writeUInt16BE(1, 8)
  block.writeUInt16BE(orientationTag, 10)
  block.writeUInt16BE(3, 12)
  block.writeUInt32BE(1, 14)
  block.writeUInt16BE(orientation, 18)
  return block
}
