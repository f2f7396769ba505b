// The few fields of ONNX's protobuf messages that say where weights lie.
const MODEL_GRAPH = 7
const GRAPH_INITIALIZER = 5
const TENSOR_EXTERNAL_DATA = 13
const ENTRY_KEY = 1
const ENTRY_VALUE = 2

/** Kernels load packed weights by instructions that require this; the longest vectors have 64 bytes. */
const VECTOR = 64
/** Products read weights that begin on a page faster: by a tenth in the causal loop at batch 1. */
const PAGE = 4096

/** A piece of a file of weights: where it was and where it goes. */
interface Move {
  from: number
  length: number
  to: number
}

/**
 * Places weights that ONNX Runtime saved, with what its kernels packed of them, at multiples of 64 bytes, large ones at
 * pages. It aligns only those above 1 MB itself, and a process that reads packed weights from an odd place crashes.
 * @param model the bytes of the saved ONNX file.
 * @returns the ONNX file with the new places, the moves, and the size of the new file of weights.
 */
export function alignWeights(model: Buffer): { model: Buffer; moves: Move[]; bytes: number } {
  const moves: Move[] = []
  let end = 0
  const place = (from: number, length: number) => {
    const alignment = length < PAGE ? VECTOR : PAGE
    const to = Math.ceil(end / alignment) * alignment
    end = to + length
    moves.push({ from, length, to })
    return to
  }
  const aligned = mapField(model, MODEL_GRAPH, (graph) =>
    mapField(graph, GRAPH_INITIALIZER, (tensor) => {
      const entries = new Map<string, string>()
      mapField(tensor, TENSOR_EXTERNAL_DATA, (entry) => {
        entries.set(textOf(entry, ENTRY_KEY), textOf(entry, ENTRY_VALUE))
        return entry
      })
      if (entries.size === 0) return tensor
      const offset = place(Number(entries.get('offset')), Number(entries.get('length')))
      return mapField(tensor, TENSOR_EXTERNAL_DATA, (entry) => {
        const key = textOf(entry, ENTRY_KEY)
        if (key === 'offset') return withValue(entry, `${offset}`)
        return key.startsWith('prepacked') ? withValue(entry, movePacked(textOf(entry, ENTRY_VALUE), place)) : entry
      })
    }),
  )
  return { model: aligned, moves, bytes: end }
}

/** Moves packed pieces, which are written as `kernel|offset;length;checksum`, with more pieces after further bars. */
function movePacked(value: string, place: (from: number, length: number) => number): string {
  const [kernel, ...pieces] = value.split('|')
  const moved = pieces.map((piece) => {
    const [offset, length, ...rest] = piece.split(';')
    return [place(Number(offset), Number(length)), length, ...rest].join(';')
  })
  return [kernel, ...moved].join('|')
}

function withValue(entry: Buffer, value: string): Buffer {
  return mapField(entry, ENTRY_VALUE, () => Buffer.from(value))
}

function textOf(message: Buffer, field: number): string {
  let text = ''
  mapField(message, field, (value) => {
    text = value.toString()
    return value
  })
  return text
}

/**
 * A protobuf message with a field of bytes, text or messages replaced, wherever it occurs.
 * @throws RangeError when the bytes are no message.
 */
function mapField(message: Buffer, field: number, change: (value: Buffer) => Buffer): Buffer {
  const parts: Buffer[] = []
  let at = 0
  let kept = 0
  const varint = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = message[at++]
      if (byte === undefined) throw new RangeError('the message ends within a field')
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
  }
  while (at < message.length) {
    const tag = varint()
    const type = tag % 8
    if (type === 0) varint()
    else if (type === 1) at += 8
    else if (type === 5) at += 4
    else if (type === 2) {
      const before = at
      const length = varint()
      const value = message.subarray(at, at + length)
      if (value.length < length) throw new RangeError('the message ends within a field')
      at += length
      if (Math.floor(tag / 8) === field) {
        const changed = change(value)
        parts.push(message.subarray(kept, before), varintOf(changed.length), changed)
        kept = at
      }
    } else throw new RangeError(`there is no field of type ${type}`)
  }
  return Buffer.concat([...parts, message.subarray(kept)])
}

function varintOf(value: number): Buffer {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest])
    bytes.push((rest % 128) | 0x80)
  }
}
