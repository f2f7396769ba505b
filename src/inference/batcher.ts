import type { Engine } from './engine/engine.ts'
import type { GraphTimings } from './engine/protocol.ts'
import { EngineFailedError } from './errors.ts'
import { type ModelShape, sequenceLength } from './graphs.ts'
import { ReturningClients } from './returning.ts'

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
  /** What items of one request have in common: their signal. An item without one is a request of its own. */
  readonly request: object
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
  /** Runs on the engine and settles the items, or lines them up to be retried. Never rejects. */
  run(engine: Engine): Promise<void>
}

/** Of so many places one goes to a request in turn, the others by age. */
const TURN_EVERY = 4

/**
 * The queue of one kind. Most places in a batch go to the items that have waited longest, the others to the requests in
 * turn: so a small request soon gets its place beside large ones, and since three of four places go by age, nothing waits
 * longer than a third more than if all of them did.
 */
class Lane<Input, Output> {
  // Both keep the order of arrival and let an aborted item leave from anywhere at once.
  readonly #waiting = new Set<Item<Input, Output>>()
  readonly #requests = new Map<object, Set<Item<Input, Output>>>()
  // An iterator of a Map also comes to what is added while it is under way: the requests take turns along it.
  #turns = this.#requests.values()
  #places = 0
  readonly #retries: Item<Input, Output>[] = []
  readonly #kind: Kind
  readonly #runBatch: RunBatch<Input, Output>
  readonly #metrics: BatcherMetrics

  constructor(kind: Kind, runBatch: RunBatch<Input, Output>, metrics: BatcherMetrics) {
    this.#kind = kind
    this.#runBatch = runBatch
    this.#metrics = metrics
  }

  /**
   * Queues an input. An abort rejects at once with the signal's reason, also while a batch with it runs.
   * @param settled called once, when there is an answer or will be none, before an engine takes its next batch.
   */
  push<Result>(
    input: Input,
    signal: AbortSignal | undefined,
    settled: () => void,
    result: (output: Output, timings: Timings) => Result,
  ): Promise<Result> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        if (item.settled) return
        item.settled = true
        signal?.removeEventListener('abort', abort)
        settled()
      }
      const item: Item<Input, Output> = {
        input,
        request: signal ?? {},
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
        if (this.#waiting.has(item)) {
          this.#leave(item)
          this.#countWaiting()
        }
        item.reject(signal?.reason)
      }
      if (signal?.aborted) {
        item.reject(signal.reason)
        return
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#enter(item)
      this.#countWaiting()
    })
  }

  /** Whether something waits, but fewer items than `count`. */
  short(count: number): boolean {
    return this.#retries.length === 0 && this.#waiting.size > 0 && this.#waiting.size < count
  }

  /** Whether nothing waits. */
  get empty(): boolean {
    return this.#retries.length === 0 && this.#waiting.size === 0
  }

  /** The next batch: first what is to be retried, alone, then up to `max` items by age and in turn. */
  take(max: number): Job | undefined {
    for (let retry = this.#retries.shift(); retry; retry = this.#retries.shift()) {
      if (!retry.settled) return this.#job([retry])
    }
    const items: Item<Input, Output>[] = []
    const byAge = this.#waiting.values()
    while (items.length < max) {
      const item = ++this.#places % TURN_EVERY === 0 ? this.#inTurn() : byAge.next().value
      if (!item) break
      this.#leave(item)
      items.push(item)
    }
    if (items.length === 0) return undefined
    this.#countWaiting()
    return this.#job(items)
  }

  /** The first item of the request whose turn it is. */
  #inTurn(): Item<Input, Output> | undefined {
    let { value: items } = this.#turns.next()
    if (!items) {
      this.#turns = this.#requests.values()
      items = this.#turns.next().value
    }
    return items?.values().next().value
  }

  #enter(item: Item<Input, Output>): void {
    this.#waiting.add(item)
    const items = this.#requests.get(item.request)
    if (items) items.add(item)
    else this.#requests.set(item.request, new Set([item]))
  }

  #leave(item: Item<Input, Output>): void {
    this.#waiting.delete(item)
    const items = this.#requests.get(item.request)
    items?.delete(item)
    if (items?.size === 0) this.#requests.delete(item.request)
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

  // The items of a batch that failed run again one by one: to halve the batch until the item that fails is alone would
  // cost an engine for each half with it, and the items beside it a longer wait than their deadline where the engine
  // hangs. An item that fails alone is rejected; one that had not failed before gets a second try, since what took its
  // engine down may have nothing to do with it.
  #retry(items: Item<Input, Output>[], cause: unknown): void {
    const [only] = items
    if (items.length === 1 && only?.retried) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      only.reject(new EngineFailedError(`the engine failed twice on this item: ${reason}`, { cause }))
      return
    }
    for (const item of items) item.retried = true
    this.#retries.push(...items)
  }

  #countWaiting(): void {
    this.#metrics.queueDepth?.(this.#kind, this.#waiting.size)
  }
}

/** An engine without work: since when, and how many milliseconds its last batch took. */
interface Rest {
  since: number
  batch: number
}

/** Of its last batch's time, what an engine waits at most for more images: photos take longer to open than a quarter. */
const PATIENCE = 1 / 2
/** The part within which a client has to be back to be waited for: further away it would cost more than it brings. */
const PROMPT = 1 / 8
const RECHECK_MS = 1

/**
 * Gathers single images and sequences into batches for whatever engines there are. Batching is continuous: an idle engine
 * gets what is waiting, up to `maxBatch` and up to its share of all there is; while all are busy the queues grow. Encode
 * and decode wait apart and take turns, so that neither starves the other.
 *
 * An engine that has just finished waits a moment for images that are about to join the queue, those being prepared and
 * those of clients that come back as soon as they are answered. Otherwise it would run without the ones it has answered,
 * and the same clients would go on in more and smaller batches. Sequences are not waited for: decoding costs the same in
 * small batches.
 */
export class Batcher {
  readonly #maxBatch: number
  readonly #encodes: Lane<Encode, Uint16Array>
  readonly #decodes: Lane<ArrayLike<number>, Uint8Array>
  readonly #idle = new Map<Engine, Rest>()
  readonly #engines = new Set<Engine>()
  readonly #clients = new ReturningClients()
  #turn: Kind = 'encode'
  #recheck: NodeJS.Timeout | undefined
  #preparing = 0
  /** Images and sequences asked for and not answered, whether they are being prepared, wait or run. */
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
    this.#idle.set(engine, { since: performance.now(), batch: 0 })
    this.#pump()
  }

  remove(engine: Engine): void {
    this.#engines.delete(engine)
    this.#idle.delete(engine)
  }

  /**
   * @param pixels uint8 `[H,W,3]`, not changed until the promise settles, or a promise of them while they are prepared.
   * @param signal of the request: items that share it are one request, which takes turns with the others.
   * @param client whose request it is, the same object for each of its requests.
   */
  async encode(
    pixels: Uint8Array | Promise<Uint8Array>,
    length: number,
    signal?: AbortSignal,
    client: object = {},
  ): Promise<{ tokens: Uint16Array; timings: Timings }> {
    this.#begin()
    this.#clients.asks(client)
    const settled = () => {
      this.#clients.answered(client)
      this.#end()
    }
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
   * @param tokens 1 to L ids, not changed until the promise settles.
   * @param signal as with {@link encode}
   */
  decode(tokens: ArrayLike<number>, signal?: AbortSignal): Promise<{ pixels: Uint8Array; timings: Timings }> {
    this.#begin()
    const settled = () => this.#end()
    const answer = this.#decodes.push(tokens, signal, settled, (pixels, timings) => ({ pixels, timings }))
    this.#pump()
    return answer
  }

  /** Resolves when nothing is being prepared, waits or runs. */
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
    const expected = patient ? this.#clients.expected(rest.batch * PROMPT) : 0
    // With more, one engine would work on a long batch for clients that then leave the others without work.
    const share = Math.min(this.#maxBatch, Math.ceil((this.#unsettled + expected) / this.#engines.size))
    const mayGrow = this.#encodes.short(share) && this.#decodes.empty
    if (patient && mayGrow && this.#preparing + expected > 0) {
      // Nothing calls when a client does not come back.
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
