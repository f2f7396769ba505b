/** Maximum number of markers read before the frame. */
const mostMarkers = 4096

export function isJpeg(bytes: Buffer): boolean {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff
}

/** Names the kind of a JPEG that libvips cannot decode, from its frame marker. Undefined if libvips can decode it. */
export function jpegNotDecoded(bytes: Buffer): string | undefined {
  let at = 2
  for (let count = 0; count < mostMarkers && at + 4 <= bytes.length; count++) {
    if (bytes[at] !== 0xff) return undefined
    const marker = bytes[at + 1] ?? 0
    if (marker === 0xff) {
      at++
      continue
    }
    if (marker === 0xf7) return 'JPEG-LS'
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
    if (isFrame) {
      const precision = bytes[at + 4] ?? 8
      const components = bytes[at + 9] ?? 3
      const kind = marker & 3
      if ((marker & 0xf) > 4 && (marker & 0xf) < 8) return 'a hierarchical JPEG'
      if (marker > 0xcc) return 'a hierarchical JPEG'
      if (precision !== 8) return `a ${precision}-bit ${kind === 3 ? 'lossless ' : ''}JPEG`
      if (![1, 3, 4].includes(components)) return `a JPEG with ${components} components`
      return kind === 3 ? 'a lossless JPEG' : undefined
    }
    if (marker === 0xda || marker === 0xd9) return undefined
    at += 2 + bytes.readUInt16BE(at + 2)
  }
  return undefined
}
