import type { Engine } from './engine.ts'
import { EngineFailedError } from './errors.ts'
import { type ModelShape, sequenceLength } from './graphs.ts'
import type { GraphTimings } from './protocol.ts'

/** What a batch carries. */
export type Kind = 'encode' | 'decode'

/** Milliseconds: `queue`, the wait for the batch that answered, then the batch's time in each graph. */
export interface Timings {
  queue: number
  [graphOrStep: string]: number
}

/** Called as things happen, so that whoever counts can count; this layer keeps no figures. */
export interface BatcherMetrics {
  /** A batch of `size` images goes to an engine. */
  batch?(kind: Kind, size: number): void
  /** A batch spent `seconds` in a graph. */
  graph?(name: string, seconds: number): void
  /** Images now waiting for an engine. */
  queueDepth?(kind: Kind, images: number): void
}

interface Encode {
  pixels: Uint8Array
  length: number
}

/** One image or sequence on its way. */
interface Item<Input, Output> {
  readonly input: Input
  readonly queuedAt: number
  /** Whether a batch it was in has failed. */
  retried: boolean
  settled: boolean
  resolve(output: Output, timings: Timings): void
  reject(error: unknown): void
}

/** Runs some inputs as one batch; outputs in the order of the inputs. */
type RunBatch<Input, Output> = (
  engine: Engine,
  inputs: Input[],
) => Promise<{ outputs: Output[]; timings: GraphTimings }>

/** A batch taken from a lane, which an engine has yet to run. */
interface Job {
  size: number
  /** Runs on the engine and settles the items, or lines them up for their retry. Never rejects. */
  run(engine: Engine): Promise<void>
}

/** The queue of one kind. */
class Lane<Input, Output> {
  // A Set keeps the order of arrival and lets an aborted item leave from anywhere at once.
  readonly #waiting = new Set<Item<Input, Output>>()
  readonly #retries: Item<Input, Output>[][] = []
  readonly #kind: Kind
  readonly #runBatch: RunBatch<Input, Output>
  readonly #metrics: BatcherMetrics

  constructor(kind: Kind, runBatch: RunBatch<Input, Output>, metrics: BatcherMetrics) {
    this.#kind = kind
    this.#runBatch = runBatch
    this.#metrics = metrics
  }

  /** Queues an input. An abort rejects at once with the signal's reason, also while a batch with it runs. */
  push<Result>(
    input: Input,
    signal: AbortSignal | undefined,
    result: (output: Output, timings: Timings) => Result,
  ): Promise<Result> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const settle = () => {
        item.settled = true
        signal?.removeEventListener('abort', abort)
      }
      const item: Item<Input, Output> = {
        input,
        queuedAt: performance.now(),
        retried: false,
        settled: false,
        resolve: (output, timings) => {
          settle()
          resolve(result(output, timings))
        },
        reject: (error) => {
          settle()
          reject(error)
        },
      }
      const abort = () => {
        if (this.#waiting.delete(item)) this.#countWaiting()
        item.reject(signal?.reason)
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#waiting.add(item)
      this.#countWaiting()
    })
  }

  /** The next batch: first what is to be retried, as it was split, then up to `max` items in order of arrival. */
  take(max: number): Job | undefined {
    for (let retry = this.#retries.shift(); retry; retry = this.#retries.shift()) {
      const items = retry.filter((item) => !item.settled)
      if (items.length > 0) return this.#job(items)
    }
    const items: Item<Input, Output>[] = []
    for (const item of this.#waiting) {
      if (items.length === max) break
      items.push(item)
      this.#waiting.delete(item)
    }
    if (items.length === 0) return undefined
    this.#countWaiting()
    return this.#job(items)
  }

  #job(items: Item<Input, Output>[]): Job {
    return { size: items.length, run: (engine) => this.#run(engine, items) }
  }

  async #run(engine: Engine, items: Item<Input, Output>[]): Promise<void> {
    this.#metrics.batch?.(this.#kind, items.length)
    const startedAt = performance.now()
    try {
      const { outputs, timings } = await this.#runBatch(
        engine,
        items.map((item) => item.input),
      )
      for (const [name, ms] of Object.entries(timings)) this.#metrics.graph?.(name, ms / 1000)
      for (const [index, item] of items.entries()) {
        const output = outputs[index]
        if (output === undefined) item.reject(new EngineFailedError('the engine gave no output'))
        else item.resolve(output, { queue: startedAt - item.queuedAt, ...timings })
      }
    } catch (error) {
      this.#retry(items, error)
    }
  }

  // A batch that failed is split in two halves, each runs as a batch of its own and is split again if it fails, down to
  // the item that fails alone. That one is rejected; a batch of one that had not failed before gets a second try, since
  // what took its engine down may have nothing to do with it.
  #retry(items: Item<Input, Output>[], cause: unknown): void {
    const [only] = items
    if (items.length === 1 && only?.retried) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      only.reject(new EngineFailedError(`the engine failed twice on this item: ${reason}`, { cause }))
      return
    }
    for (const item of items) item.retried = true
    const middle = Math.ceil(items.length / 2)
    for (const half of [items.slice(0, middle), items.slice(middle)]) {
      if (half.length > 0) this.#retries.push(half)
    }
  }

  #countWaiting(): void {
    this.#metrics.queueDepth?.(this.#kind, this.#waiting.size)
  }
}

/**
 * Gathers single images and sequences into batches for whatever engines there are. Batching is continuous: an idle engine
 * gets at once what is waiting, up to `maxBatch` and up to its share of all that waits or runs; while all are busy the
 * queues grow. Encode and decode wait apart and take turns, so that neither starves the other.
 */
export class Batcher {
  readonly #maxBatch: number
  readonly #encodes: Lane<Encode, Uint16Array>
  readonly #decodes: Lane<ArrayLike<number>, Uint8Array>
  readonly #idle = new Set<Engine>()
  readonly #engines = new Set<Engine>()
  #turn: Kind = 'encode'
  #unsettled = 0
  #drained = Promise.withResolvers<void>()

  constructor(shape: ModelShape, maxBatch: number, metrics: BatcherMetrics = {}) {
    this.#maxBatch = maxBatch
    this.#encodes = new Lane('encode', encodeBatch(shape), metrics)
    this.#decodes = new Lane('decode', decodeBatch(shape), metrics)
    this.#drained.resolve()
  }

  /** Engines there are, idle or busy. */
  get engines(): number {
    return this.#engines.size
  }

  /** Gives the batcher an engine to use, until {@link remove}. */
  add(engine: Engine): void {
    this.#engines.add(engine)
    this.#idle.add(engine)
    this.#pump()
  }

  remove(engine: Engine): void {
    this.#engines.delete(engine)
    this.#idle.delete(engine)
  }

  /** @param pixels uint8 `[H,W,3]`, not changed until the promise settles. */
  encode(pixels: Uint8Array, length: number, signal?: AbortSignal): Promise<{ tokens: Uint16Array; timings: Timings }> {
    return this.#track(this.#encodes.push({ pixels, length }, signal, (tokens, timings) => ({ tokens, timings })))
  }

  /** @param tokens 1 to L ids, not changed until the promise settles. */
  decode(tokens: ArrayLike<number>, signal?: AbortSignal): Promise<{ pixels: Uint8Array; timings: Timings }> {
    return this.#track(this.#decodes.push(tokens, signal, (pixels, timings) => ({ pixels, timings })))
  }

  /** Resolves when nothing waits or runs. */
  drained(): Promise<void> {
    return this.#drained.promise
  }

  async #track<Result>(pushed: Promise<Result>): Promise<Result> {
    if (this.#unsettled++ === 0) this.#drained = Promise.withResolvers()
    this.#pump()
    try {
      return await pushed
    } finally {
      if (--this.#unsettled === 0) this.#drained.resolve()
    }
  }

  #pump(): void {
    for (const engine of this.#idle) {
      if (engine.over) continue
      const job = this.#next()
      if (!job) return
      this.#idle.delete(engine)
      void job.run(engine).then(() => {
        if (this.#engines.has(engine)) this.#idle.add(engine)
        this.#pump()
      })
    }
  }

  #next(): Job | undefined {
    // With more, one engine would work on a long batch for clients that then leave the others without work.
    const share = Math.ceil(this.#unsettled / this.#engines.size)
    for (const kind of this.#turn === 'encode' ? (['encode', 'decode'] as const) : (['decode', 'encode'] as const)) {
      const job = (kind === 'encode' ? this.#encodes : this.#decodes).take(Math.min(this.#maxBatch, share))
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
