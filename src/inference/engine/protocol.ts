import type { Graph, ModelShape } from '../graphs.ts'

/** Where the graphs run. */
export type Provider = 'cuda' | 'cpu'

/** What an engine needs to know to load a model. */
export interface EngineConfig {
  graphs: Graph[]
  shape: ModelShape
  provider: Provider
  /** CUDA device; ignored on CPU. */
  device: number
  /** Threads per graph. */
  threads: number
  /** Whether CUDA may round the factors of float32 products to TensorFloat-32; ignored on CPU. */
  tf32: boolean
  batches: BatchPlan
}

/** How an engine runs batches; sizes are numbers of images or sequences. */
export interface BatchPlan {
  max: number
  /** Graphs run only at these sizes, in ascending order; fewer rows are padded to the next size. If there are none, any size will do. */
  sizes: number[]
  /** Maximum number of images that the encoder or decoder runs on at once; larger batches are split. */
  part: number
}

/** Milliseconds by graph name. */
export type GraphTimings = Record<string, number>

/** Images to encode. */
export interface EncodeBatch {
  /** uint8 `[N,H,W,3]`. */
  pixels: Uint8Array
  /** Number of tokens per image, longest first: a later stage then runs only on the leading images. */
  lengths: number[]
}

/** Tokens of the images of an {@link EncodeBatch}. */
export interface EncodeResult {
  /** uint16 `[N,L]`; values beyond the length of a row's image are meaningless. */
  tokens: Uint16Array
  timings: GraphTimings
}

/** Sequences to decode. */
export interface DecodeBatch {
  /** int32 `[N,L]`; a shorter sequence is padded with the id after the codebook's last, which means "absent". */
  tokens: Int32Array
}

/** Images of the sequences of a {@link DecodeBatch}. */
export interface DecodeResult {
  /** uint8 `[N,H,W,3]`. */
  pixels: Uint8Array
  timings: GraphTimings
}

/** Milliseconds to encode one image and to decode one sequence, each run alone. */
export interface ItemTimes {
  encode: number
  decode: number
}

/** Messages to the engine process: `load` once, then one batch at a time. */
export type EngineRequest =
  | { kind: 'load'; config: EngineConfig }
  | ({ kind: 'encode' } & EncodeBatch)
  | ({ kind: 'decode' } & DecodeBatch)

/** Messages from the engine process: one reply per request. */
export type EngineReply =
  | { kind: 'loaded'; itemMs: ItemTimes }
  | ({ kind: 'encoded' } & EncodeResult)
  | ({ kind: 'decoded' } & DecodeResult)
  | { kind: 'failed'; message: string; bundle: boolean }
