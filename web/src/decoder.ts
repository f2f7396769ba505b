import type { Api, Info } from './api.ts'
import type { Picture } from './pixels.ts'

const MOST = 16
// Until the first answer, the service's speed is unknown. A large model may take seconds per picture.
const FIRST = 4
// Long enough for a batch to pay off, short enough for a responsive slider.
const BATCH_MS = 800

/** Decodes in batches as large as the service answers in about a second. */
export class Decoder {
  readonly #api: Api
  readonly #info: Info
  #batch: number

  constructor(api: Api, info: Info) {
    this.#api = api
    this.#info = info
    this.#batch = Math.min(FIRST, info.limits.images)
  }

  /** How many sequences the next request should have. */
  get batch(): number {
    return this.#batch
  }

  /** Decodes sequences to pictures, in order. */
  readonly decode = async (sequences: number[][], signal: AbortSignal): Promise<Picture[]> => {
    const start = performance.now()
    const pictures = await this.#api.decode(sequences, this.#info.model, signal)
    const each = (performance.now() - start) / sequences.length
    this.#batch = Math.min(Math.max(1, Math.round(BATCH_MS / each)), MOST, this.#info.limits.images)
    return pictures
  }
}
