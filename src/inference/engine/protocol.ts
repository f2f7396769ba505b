import type { Graph, ModelShape } from '../graphs.ts'

/** Where the graphs run. */
export type Provider = 'cuda' | 'cpu'

/** What an engine needs to know to load a model. */
export interface EngineConfig {
  graphs: Graph[]
  shape: ModelShape
  provider: Provider
  /** CUDA device; without meaning on CPU. */
  device: number
  /** Threads that a graph runs on. */
  threads: number
  /** Whether CUDA may round the factors of float32 products to TensorFloat-32; without meaning on CPU. */
  tf32: boolean
  batches: BatchPlan
}

/** How an engine runs batches; sizes are numbers of images or sequences. */
export interface BatchPlan {
  max: number
  /** Sizes to warm up at, ascending. */
  sizes: number[]
  /** Whether graphs run at these sizes only: fewer rows are filled up to the next size. */
  pinned: boolean
  /** Maximum number of images that the encoder or decoder runs on at once; larger batches are cut into such parts. */
  part: number
}

/** Milliseconds by graph name. */
export type GraphTimings = Record<string, number>

/** Images to encode. */
export interface EncodeBatch {
  /** uint8 `[N,H,W,3]`. */
  pixels: Uint8Array
  /** Tokens wanted of each image, longest first: a later stage then runs on the leading images only. */
  lengths: number[]
}

/** Tokens of the images of an {@link EncodeBatch}. */
export interface EncodeResult {
  /** uint16 `[N,L]`; what a row holds beyond its image's length means nothing. */
  tokens: Uint16Array
  timings: GraphTimings
}

/** Sequences to decode. */
export interface DecodeBatch {
  /** int32 `[N,L]`; a shorter sequence is filled up with the id after the codebook's last, which means absent. */
  tokens: Int32Array
}

/** Images of the sequences of a {@link DecodeBatch}. */
export interface DecodeResult {
  /** uint8 `[N,H,W,3]`. */
  pixels: Uint8Array
  timings: GraphTimings
}

/** Milliseconds that one image took to encode, and one sequence to decode, each by itself. */
export interface ItemTimes {
  encode: number
  decode: number
}

/** To the engine process: `load` once, then one batch at a time. */
export type EngineRequest =
  | { kind: 'load'; config: EngineConfig }
  | ({ kind: 'encode' } & EncodeBatch)
  | ({ kind: 'decode' } & DecodeBatch)

/** From the engine process: one reply per request. */
export type EngineReply =
  | { kind: 'loaded'; itemMs: ItemTimes }
  | ({ kind: 'encoded' } & EncodeResult)
  | ({ kind: 'decoded' } & DecodeResult)
  | { kind: 'failed'; message: string; bundle: boolean }
