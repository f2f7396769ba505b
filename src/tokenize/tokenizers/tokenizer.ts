import type { ImagePreparation, Provider } from '../../inference/inference.ts'

/** What turns pixels into tokens. */
export interface Model {
  name: string
  /** Digests of what makes tokens, and of the whole bundle. */
  model: string
  bundle: string
  /** Whether a shorter encoding is a prefix of a longer one. */
  prefixes: boolean
  /** How photos become pixels. */
  image: ImagePreparation
  /** The longest encoding. */
  length: number
  codebookSize: number
  provider: Provider
}

/** A model that can be used, and how. Engines of its own start only when they are needed. */
export interface Tokenizers {
  /** Without the provider where it is only known after the start. */
  readonly model: Omit<Model, 'provider'> & Partial<Pick<Model, 'provider'>>
  start(): Promise<Tokenizer>
}

/** Encodes views with one model, many at a time. */
export interface Tokenizer {
  readonly model: Model
  /** How many views at a time keep it busy. */
  readonly capacity: number
  /**
   * @param pixels uint8 `[S,S,3]`, which must not change until the promise settles
   * @returns uint16 ids `[length]`
   * @throws ItemError if this view fails by itself; Error with one sentence if nothing more can be encoded
   */
  encode(pixels: Uint8Array, length: number): Promise<Uint16Array>
  /** Ends it, when nothing is being encoded or nobody waits for it any more. */
  close(): Promise<void>
}
