/** Tokens as bits, as text to copy and as a link to share. No browser needed. */

/** Bits per token of a codebook. */
export function bitsOf(codebookSize: number): number {
  return Math.max(1, Math.ceil(Math.log2(codebookSize)))
}

/** Whole bytes for this many tokens. */
export function bytesOf(tokens: number, codebookSize: number): number {
  return Math.ceil((tokens * bitsOf(codebookSize)) / 8)
}

/** Packs tokens bit by bit, the most significant first. The last byte is padded with zeros. */
export function pack(tokens: readonly number[], bits: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((tokens.length * bits) / 8))
  let at = 0
  for (const token of tokens) {
    for (let bit = bits - 1; bit >= 0; bit--, at++) {
      if ((token >> bit) & 1) bytes[at >> 3] = (bytes[at >> 3] as number) | (0x80 >> (at & 7))
    }
  }
  return bytes
}

/** The first `count` tokens of a result of `pack`. */
export function unpack(bytes: Uint8Array, count: number, bits: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    let token = 0
    for (let at = i * bits; at < (i + 1) * bits; at++)
      token = (token << 1) | (((bytes[at >> 3] ?? 0) >> (7 - (at & 7))) & 1)
    return token
  })
}

/** The content of a link. */
export interface Shared {
  tokens: number[]
  /** How many of them are shown. */
  shown: number
  /** File name of their gallery photo, if they are from one. */
  photo?: string
}

export interface TokenSpace {
  /** Digest of the model. */
  model: string
  /** Longest sequence. */
  length: number
  codebookSize: number
}

/** The link is not from this playground, or its tokens mean something else here. The message is for people. */
export class ShareError extends Error {}

// Enough of the digest to tell models apart, and a link that can still be pasted.
const DIGEST_DIGITS = 12

/** A URL fragment, without the `#`. */
export function toFragment({ tokens, shown, photo }: Shared, { model, codebookSize }: TokenSpace): string {
  const base64 = btoa(String.fromCharCode(...pack(tokens, bitsOf(codebookSize))))
  const fields = {
    m: model.slice(0, DIGEST_DIGITS),
    n: String(tokens.length),
    k: String(shown),
    ...(photo !== undefined && { p: photo }),
    t: base64.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', ''),
  }
  return new URLSearchParams(fields).toString()
}

/**
 * What a fragment carries; undefined where it carries no tokens.
 *
 * @param fragment with or without its `#`
 * @throws ShareError if its tokens cannot be decoded here
 */
export function fromFragment(fragment: string, { model, length, codebookSize }: TokenSpace): Shared | undefined {
  const fields = new URLSearchParams(fragment.replace(/^#/, ''))
  const text = fields.get('t')
  if (text === null) return undefined
  if (fields.get('m') !== model.slice(0, DIGEST_DIGITS)) {
    throw new ShareError('This link’s tokens are of another model, so this one would draw something else from them.')
  }
  const bits = bitsOf(codebookSize)
  const count = Number(fields.get('n'))
  let bytes: Uint8Array
  try {
    bytes = Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0))
  } catch {
    throw new ShareError('This link’s tokens are damaged.')
  }
  if (!Number.isInteger(count) || count < 1 || count > length || bytes.length !== Math.ceil((count * bits) / 8)) {
    throw new ShareError('This link’s tokens are damaged: there are more or fewer than it says.')
  }
  const tokens = unpack(bytes, count, bits)
  if (tokens.some((id) => id >= codebookSize)) throw new ShareError('This link’s tokens are not all in the codebook.')
  const shown = Number(fields.get('k'))
  const photo = fields.get('p')
  return {
    tokens,
    shown: Number.isInteger(shown) && shown >= 1 && shown <= count ? shown : count,
    ...(photo !== null && { photo }),
  }
}

/** A NumPy file (.npy, format version 1): uint16 [length]. */
export function toNpy(tokens: readonly number[]): Uint8Array<ArrayBuffer> {
  const text = `{'descr': '<u2', 'fortran_order': False, 'shape': (${tokens.length},), }`
  // The data must start at a multiple of 64; the header ends in a newline.
  const start = Math.ceil((10 + text.length + 1) / 64) * 64
  const bytes = new Uint8Array(start + 2 * tokens.length)
  const header = `\x93NUMPY\x01\x00\x00\x00${text}`.padEnd(start - 1, ' ')
  for (let i = 0; i < header.length; i++) bytes[i] = header.charCodeAt(i)
  bytes[start - 1] = '\n'.charCodeAt(0)
  const view = new DataView(bytes.buffer)
  view.setUint16(8, start - 10, true)
  for (const [i, token] of tokens.entries()) view.setUint16(start + 2 * i, token, true)
  return bytes
}

export type Snippet = 'json' | 'numpy' | 'curl'

/**
 * Tokens as text to paste elsewhere. It never contains the key, only the name of a variable that holds it.
 *
 * @param keyed whether the service asks for an API key
 */
export function snippet(
  kind: Snippet,
  tokens: readonly number[],
  { base, model, keyed }: { base: string; model: string; keyed: boolean },
): string {
  const list = `[${tokens.join(', ')}]`
  if (kind === 'json') return JSON.stringify({ model, length: tokens.length, tokens: [tokens] })
  if (kind === 'numpy') return `import numpy as np\n\ntokens = np.array(${list}, dtype=np.uint16)\n`
  const key = keyed ? ` -H "x-api-key: $NATIVETOK_API_KEY"` : ''
  const url = new URL(`decode?model=${model}`, base)
  return `curl${key} -H 'Content-Type: application/json' -d '{"tokens": ${list}}' '${url}' -o picture.png`
}
