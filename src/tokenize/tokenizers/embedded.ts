import { readBundle } from '../../inference/bundle.ts'
import { sequenceLength } from '../../inference/graphs.ts'
import { EngineFailedError, Inference, type InferenceOptions } from '../../inference/inference.ts'
import { ItemError, messageOf, OptionsError } from '../errors.ts'
import type { Model, Tokenizer, Tokenizers } from './tokenizer.ts'

export type EmbeddedOptions = Pick<
  InferenceOptions,
  'model' | 'cache' | 'provider' | 'devices' | 'engines' | 'threads' | 'tf32' | 'maxBatch' | 'log'
>

/** The time that the service's engines have by default. */
const BATCH_TIMEOUT_MS = 10_000
/** Batches per engine: one that runs, one that waits, and one that fills while images are written in order. */
const BATCHES_AHEAD = 3

/**
 * Reads a bundle, for engines to start later.
 * @throws OptionsError if it cannot be served; starting throws one as well if CUDA was asked for and does not load
 */
export async function openEmbedded(options: EmbeddedOptions): Promise<Tokenizers> {
  const { manifest, shape, modelDigest, bundleDigest } = await readBundle(options.model).catch(refuse)
  return {
    model: {
      ...{ name: manifest.name, model: modelDigest, bundle: bundleDigest, prefixes: shape.kind === 'causal' },
      ...{ image: manifest.image, length: sequenceLength(shape), codebookSize: shape.codebook.size },
    },
    start: () => {
      const started = EmbeddedTokenizer.start(options)
      return options.provider === 'cuda' ? started.catch(refuse) : started
    },
  }
}

function refuse(error: unknown): never {
  throw new OptionsError(messageOf(error))
}

/** Encodes in engine processes of its own. */
export class EmbeddedTokenizer implements Tokenizer {
  readonly model: Model
  readonly capacity: number
  readonly #inference: Inference
  readonly #lost = new AbortController()

  /** @throws BundleError; Error if the provider that was asked for does not load */
  static async start(options: EmbeddedOptions): Promise<EmbeddedTokenizer> {
    return new EmbeddedTokenizer(
      await Inference.start({ ...options, queueLimit: Number.MAX_SAFE_INTEGER, timeoutMs: BATCH_TIMEOUT_MS }),
    )
  }

  private constructor(inference: Inference) {
    const { name, modelDigest, bundleDigest, kind, image, length, codebook, provider } = inference.info
    this.#inference = inference
    this.model = {
      ...{ name, model: modelDigest, bundle: bundleDigest, prefixes: kind === 'causal' },
      ...{ image, length, codebookSize: codebook.size, provider },
    }
    this.capacity = BATCHES_AHEAD * inference.info.engines * inference.info.maxBatch
    void inference.lost.then((reason) => this.#lost.abort(new Error(reason)))
  }

  async encode(pixels: Uint8Array, length: number): Promise<Uint16Array> {
    try {
      const { tokens } = await this.#inference.encode(pixels, length, this.#lost.signal)
      return tokens
    } catch (error) {
      throw error instanceof EngineFailedError ? new ItemError(error.message) : error
    }
  }

  close(): Promise<void> {
    return this.#inference.close()
  }
}
