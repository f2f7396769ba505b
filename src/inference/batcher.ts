import type { Engine } from './engine/engine.ts'
import { type ModelShape, sequenceLength } from './graphs.ts'
import { type Job, type Kind, Queue, type QueueMetrics, type RunBatch, type Timings } from './queue.ts'

interface Encode {
  pixels: Uint8Array
  length: number
}

/** An idle engine: since when, and how many milliseconds its last batch took. */
interface Rest {
  since: number
  batch: number
}

/** The longest wait for more images, as a share of an engine's last batch time. A quarter is too short to decode photos. */
const PATIENCE = 1 / 2
const RECHECK_MS = 1

/**
 * Collects single images and sequences into batches for the engines. Batching is continuous: an idle engine gets what is
 * waiting, up to `maxBatch` and up to its share of all open work; while all engines are busy the queues grow.
 * Encode and decode have separate queues and take turns, so that neither starves the other.
 *
 * An engine that has just finished waits a moment for images that are being prepared, so that they join its next batch
 * and not the one after. It does not wait for sequences: decoding costs the same in small batches.
 */
export class Batcher {
  readonly #maxBatch: number
  readonly #encodes: Queue<Encode, Uint16Array>
  readonly #decodes: Queue<ArrayLike<number>, Uint8Array>
  readonly #idle = new Map<Engine, Rest>()
  readonly #engines = new Set<Engine>()
  #turn: Kind = 'encode'
  #recheck: NodeJS.Timeout | undefined
  #preparing = 0
  /** Images and sequences not answered yet: those being prepared, waiting or running. */
  #unsettled = 0
  #drained = Promise.withResolvers<void>()

  constructor(shape: ModelShape, maxBatch: number, metrics: QueueMetrics = {}) {
    this.#maxBatch = maxBatch
    this.#encodes = new Queue('encode', encodeBatch(shape), metrics)
    this.#decodes = new Queue('decode', decodeBatch(shape), metrics)
    this.#drained.resolve()
  }

  /** Number of engines, idle or busy. */
  get engines(): number {
    return this.#engines.size
  }

  /** Adds an engine, which is used until {@link remove}. */
  add(engine: Engine): void {
    this.#engines.add(engine)
    this.#idle.set(engine, { since: performance.now(), batch: 0 })
    this.#pump()
  }

  remove(engine: Engine): void {
    this.#engines.delete(engine)
    this.#idle.delete(engine)
  }

  /**
   * @param pixels uint8 `[H,W,3]`, must not change until the promise settles; or a promise of such pixels.
   * @param signal of the request: items with the same signal are one request, which takes turns with the others.
   */
  async encode(
    pixels: Uint8Array | Promise<Uint8Array>,
    length: number,
    signal?: AbortSignal,
  ): Promise<{ tokens: Uint16Array; timings: Timings }> {
    this.#begin()
    const settled = () => this.#end()
    let input: Encode
    try {
      input = { pixels: pixels instanceof Uint8Array ? pixels : await this.#prepared(pixels), length }
    } catch (error) {
      settled()
      throw error
    }
    const answer = this.#encodes.push(input, signal, settled, (tokens, timings) => ({ tokens, timings }))
    this.#pump()
    return answer
  }

  /**
   * @param tokens 1 to L ids; must not change until the promise settles.
   * @param signal as with {@link encode}
   */
  decode(tokens: ArrayLike<number>, signal?: AbortSignal): Promise<{ pixels: Uint8Array; timings: Timings }> {
    this.#begin()
    const settled = () => this.#end()
    const answer = this.#decodes.push(tokens, signal, settled, (pixels, timings) => ({ pixels, timings }))
    this.#pump()
    return answer
  }

  /** Resolves when nothing is being prepared, waiting or running. */
  drained(): Promise<void> {
    return this.#drained.promise
  }

  async #prepared(pixels: Promise<Uint8Array>): Promise<Uint8Array> {
    this.#preparing++
    try {
      return await pixels
    } finally {
      this.#preparing--
    }
  }

  #begin(): void {
    if (this.#unsettled++ === 0) this.#drained = Promise.withResolvers()
  }

  #end(): void {
    if (--this.#unsettled === 0) this.#drained.resolve()
  }

  #pump(): void {
    clearTimeout(this.#recheck)
    this.#recheck = undefined
    for (const [engine, rest] of this.#idle) {
      if (engine.over) continue
      const job = this.#next(rest)
      if (!job) continue
      this.#idle.delete(engine)
      const start = performance.now()
      void job.run(engine).then(() => {
        const since = performance.now()
        if (this.#engines.has(engine)) this.#idle.set(engine, { since, batch: since - start })
        this.#pump()
      })
    }
  }

  #next(rest: Rest): Job | undefined {
    const patient = performance.now() - rest.since < rest.batch * PATIENCE
    // With a larger share, one engine would run a long batch while the others have no work.
    const share = Math.min(this.#maxBatch, Math.ceil(this.#unsettled / this.#engines.size))
    const mayGrow = this.#encodes.short(share) && this.#decodes.empty
    if (patient && mayGrow && this.#preparing > 0) {
      // Nothing else runs this again when an image turns out to be broken.
      this.#recheck ??= setTimeout(() => this.#pump(), RECHECK_MS)
      return undefined
    }
    for (const kind of this.#turn === 'encode' ? (['encode', 'decode'] as const) : (['decode', 'encode'] as const)) {
      const job = (kind === 'encode' ? this.#encodes : this.#decodes).take(share)
      if (job) {
        this.#turn = kind === 'encode' ? 'decode' : 'encode'
        return job
      }
    }
    return undefined
  }
}

function encodeBatch(shape: ModelShape): RunBatch<Encode, Uint16Array> {
  const rowLength = sequenceLength(shape)
  return async (engine, inputs) => {
    const longestFirst = [...inputs.entries()].sort(([, a], [, b]) => b.length - a.length)
    const pixels = Buffer.concat(longestFirst.map(([, input]) => input.pixels))
    const lengths = longestFirst.map(([, input]) => input.length)
    const { tokens, timings } = await engine.encode({ pixels, lengths })
    const outputs = new Array<Uint16Array>(inputs.length)
    for (const [row, [index, input]] of longestFirst.entries()) {
      outputs[index] = tokens.slice(row * rowLength, row * rowLength + input.length)
    }
    return { outputs, timings }
  }
}

function decodeBatch(shape: ModelShape): RunBatch<ArrayLike<number>, Uint8Array> {
  const imageBytes = shape.imageSize * shape.imageSize * 3
  const rowLength = sequenceLength(shape)
  const absent = shape.codebook.size
  return async (engine, inputs) => {
    const tokens = new Int32Array(inputs.length * rowLength).fill(absent)
    for (const [row, input] of inputs.entries()) tokens.set(input, row * rowLength)
    const { pixels, timings } = await engine.decode({ tokens })
    const outputs = inputs.map((_, row) => pixels.subarray(row * imageBytes, (row + 1) * imageBytes))
    return { outputs, timings }
  }
}
