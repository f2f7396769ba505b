import type { Engine } from './engine/engine.ts'
import type { GraphTimings } from './engine/protocol.ts'
import { EngineFailedError, EngineKilledError } from './errors.ts'

/** The kind of work in a batch. */
export type Kind = 'encode' | 'decode'

/** Milliseconds: `queue` is the wait for the batch with the answer; then the batch's time in each graph. */
export interface Timings {
  queue: number
  [graphOrStep: string]: number
}

/** Callbacks for events, so that the caller can count them; this layer keeps no statistics. */
export interface QueueMetrics {
  /** Called when a batch of `size` images goes to an engine. */
  batch?(kind: Kind, size: number): void
  /** Called when a batch has spent `seconds` in a graph. */
  graph?(name: string, seconds: number): void
  /** Called with the number of images that now wait for an engine. */
  queueDepth?(kind: Kind, images: number): void
}

/** One image or sequence that waits or runs. */
interface Item<Input, Output> {
  readonly input: Input
  /** The same for all items of one request: their signal. An item without a signal is a request of its own. */
  readonly request: object
  readonly queuedAt: number
  /** Whether it was in a batch that failed. */
  retried: boolean
  /** How often something outside killed an engine that ran it alone. */
  kills: number
  settled: boolean
  resolve(output: Output, timings: Timings): void
  reject(error: unknown): void
}

/** Runs inputs as one batch; outputs come in the order of the inputs. */
export type RunBatch<Input, Output> = (
  engine: Engine,
  inputs: Input[],
) => Promise<{ outputs: Output[]; timings: GraphTimings }>

/** A batch taken from a queue, for an engine to run. */
export interface Job {
  size: number
  /** Runs on the engine and settles the items, or queues them for a retry. Never rejects. */
  run(engine: Engine): Promise<void>
}

/** One in this many places in a batch goes to the requests in turn, the others by age. */
const TURN_EVERY = 4
/** An item that takes too much memory also has its engine killed, so kills are forgiven only so often. */
const FORGIVEN_KILLS = 2

/**
 * The queue of one kind of work. Most places in a batch go to the items that have waited longest, the others to the requests
 * in turn. So a small request soon gets a place beside large ones; and because three of four places go by age, no item waits
 * more than a third longer than it would if all places did.
 */
export class Queue<Input, Output> {
  // Both keep the order of arrival, and removing an aborted item is fast anywhere in them.
  readonly #waiting = new Set<Item<Input, Output>>()
  readonly #requests = new Map<object, Set<Item<Input, Output>>>()
  // An iterator of a Map also reaches entries that are added while it is in use: the requests take turns along it.
  #turns = this.#requests.values()
  #places = 0
  readonly #retries: Item<Input, Output>[] = []
  readonly #kind: Kind
  readonly #runBatch: RunBatch<Input, Output>
  readonly #metrics: QueueMetrics

  constructor(kind: Kind, runBatch: RunBatch<Input, Output>, metrics: QueueMetrics) {
    this.#kind = kind
    this.#runBatch = runBatch
    this.#metrics = metrics
  }

  /**
   * Queues an input. An abort rejects at once with the signal's reason, even while a batch with the input runs.
   * @param settled called once, when the item is answered or abandoned, before an engine takes its next batch.
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
        kills: 0,
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

  /** Whether at least one item waits, but fewer than `count`. */
  short(count: number): boolean {
    return this.#retries.length === 0 && this.#waiting.size > 0 && this.#waiting.size < count
  }

  /** Whether nothing waits. */
  get empty(): boolean {
    return this.#retries.length === 0 && this.#waiting.size === 0
  }

  /** The next batch: a single item to retry, or else up to `max` items by age and in turn. */
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

  // The items of a failed batch run again one by one. Halving the batch until the failing item is alone would cost an
  // engine for every half that holds it, and where the engine hangs, the other items would wait past their deadline. An
  // item that fails alone after a failure is rejected; on its first failure it is tried again, because the engine may have
  // ended for another reason. Engines start so fast that whoever kills one after another would hit the same item twice.
  #retry(items: Item<Input, Output>[], cause: unknown): void {
    const [only] = items
    if (items.length === 1 && only?.retried) {
      if (cause instanceof EngineKilledError && only.kills++ < FORGIVEN_KILLS) {
        this.#retries.push(only)
        return
      }
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
