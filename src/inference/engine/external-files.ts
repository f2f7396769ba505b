// TensorProto.external_data holds pairs of strings. As bytes, the pair with a file's name begins with field 1 (key), its
// length, "location", then field 2 (value), whose length and text follow.
const LOCATION = Buffer.from('\x0a\x08location\x12', 'latin1')

/**
 * The names of the external files from which an ONNX graph takes weights, as written in the graph.
 * @param model the bytes of the ONNX file. It is searched for the names, not parsed.
 */
export function externalFiles(model: Buffer): string[] {
  const files = new Set<string>()
  for (let at = model.indexOf(LOCATION); at >= 0; at = model.indexOf(LOCATION, at + 1)) {
    let start = at + LOCATION.length
    let length = 0
    // A length is stored in groups of seven bits, the lowest first; all but the last have their top bit set.
    for (let shift = 0; ; shift += 7) {
      const byte = model[start++] ?? 0
      length += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) break
    }
    files.add(model.toString('utf8', start, start + length))
  }
  return [...files]
}
