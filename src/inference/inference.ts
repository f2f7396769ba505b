import { Batcher } from './batcher.ts'
import { type Bundle, type ImagePreparation, readBundle, type Source } from './bundle.ts'
import { cachedGraphs } from './cache/cache.ts'
import { type Engine, type EngineEnd, ProcessEngine, readMs } from './engine/engine.ts'
import { EngineKeeper } from './engine/keeper.ts'
import type { Provider } from './engine/protocol.ts'
import { chooseProvider, type ProviderChoice } from './engine/providers.ts'
import { messageOf, QueueFullError } from './errors.ts'
import { type Graph, type ModelShape, sequenceLength } from './graphs.ts'
import type { QueueMetrics, Timings } from './queue.ts'
import { type Reservation, Reservations } from './reservations.ts'
import { type EnginePlan, largestBatch, planBatches, planEngines, usableMachine } from './sizing.ts'

export type { ImagePreparation, Source } from './bundle.ts'
export { cacheFolder } from './cache/cache.ts'
export type { EngineEnd } from './engine/engine.ts'
export type { Provider } from './engine/protocol.ts'
export { BundleError, EngineFailedError, QueueFullError } from './errors.ts'
export type { Kind, Timings } from './queue.ts'
export type { Reservation } from './reservations.ts'

/** The part of pino's logger that is used here. */
export interface Logger {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** Callbacks for events, so that the caller can count them. */
export interface InferenceMetrics extends QueueMetrics {
  /** Called when an engine has ended and is being replaced. */
  engineRestart?(end: EngineEnd): void
}

export interface InferenceOptions {
  /** The bundle's folder. */
  model: string
  provider: 'auto' | Provider
  /** CUDA devices, with one engine on each. */
  devices: number[]
  /** Engine processes; by default one per CUDA device, and on a CPU as many as cores and memory allow. */
  engines: number | undefined
  /** Threads per engine; by default the engines share the usable cores. */
  threads: number | undefined
  /** Whether CUDA may use TensorFloat-32. */
  tf32: boolean
  /** Maximum batch size; by default 32 on a CPU, or less for slow models, and 256 on CUDA. */
  maxBatch: number | undefined
  /** Maximum number of images reserved, encode and decode together. */
  queueLimit: number
  /** Time for an engine to answer a batch, in milliseconds. */
  timeoutMs: number
  /** Folder of the cache of optimised graphs; without it, engines on a CPU load slowly and share no weights. */
  cache?: string | undefined
  /** Time without any engine after which the service gives up, in milliseconds; by default a minute, longer for large bundles. */
  lostAfterMs?: number
  log: Logger
  metrics?: InferenceMetrics
}

/** What is served, and how it runs. */
export interface ModelInfo {
  name: string
  /** `causal`: shorter encodings are prefixes of longer ones. `parallel`: only whole sequences mean something. */
  kind: ModelShape['kind']
  /** Whether any prefix decodes; if not, only whole sequences do. */
  prefixes: boolean
  /** Identifies the model: tokens of one model are meaningless to another. */
  modelDigest: string
  /** Digest of every file of the bundle. */
  bundleDigest: string
  imageSize: number
  /** How photos are turned into the encoder's pixels. */
  image: ImagePreparation
  length: number
  stages: number[]
  /** `normalised`: whether the entries are unit vectors. */
  codebook: { size: number; dimension: number; normalised: boolean }
  /** Where the weights came from, if the bundle says so. */
  source?: Source
  provider: Provider
  providerReason: string
  /** Engine processes, threads per engine, and the maximum batch size. */
  engines: number
  threads: number
  maxBatch: number
}

const ENGINE_CHILD = new URL('./engine/child.ts', import.meta.url)
/** Longer than a replacement takes to load on any reasonable machine, unless its files are large. */
const LOST_AFTER_MS = 60_000
/** `retryAfter` when no engine starts: the longest pause before the next try. */
const NO_ENGINE_RETRY_SECONDS = 10

/** Runs a bundle's model in engine processes: images to tokens and back. */
export class Inference {
  readonly info: ModelInfo
  /** The bytes of the bundle's `codebook.npy`: float32 `[size, dimension]`. */
  readonly codebookFile: Buffer
  /**
   * Resolves with the reason, in a sentence, when there has been no engine for so long that none will come back: the bundle
   * was changed or deleted, or there is no memory left. The caller should then end the process.
   */
  readonly lost: Promise<string>
  readonly #reservations: Reservations
  readonly #imageBytes: number
  readonly #batcher: Batcher
  readonly #keepers: EngineKeeper[]
  /** Why the latest replacement did not start; set only while there is no engine. */
  #failure: Error | undefined
  #giveUp: NodeJS.Timeout | undefined
  #closing: Promise<void> | undefined
  #closed = false

  /**
   * Verifies the bundle, chooses the provider, starts the engines and warms them up.
   * @param child the script that runs in engine processes.
   * @throws BundleError one sentence that names the file at fault; Error when the requested provider does not load.
   */
  static async start(options: InferenceOptions, child: URL = ENGINE_CHILD): Promise<Inference> {
    const bundle = await readBundle(options.model)
    const machine = await usableMachine()
    const choice = await chooseProvider(options.provider, async (provider) => {
      // What CUDA's provider makes of a graph stays on the device.
      const cached = await cachedGraphs(bundle, provider === 'cpu' ? options.cache : undefined, options.log)
      const start = (graphs: Graph[]) => {
        const model = { shape: bundle.shape, graphs }
        const plans = planEngines(provider, options, machine, { graphs, imageSize: bundle.shape.imageSize })
        return startAll(
          plans.map((plan) => ({ plan, start: () => startEngine(model, provider, plan, options, child) })),
        )
      }
      if (cached === bundle.graphs) return start(bundle.graphs)
      return start(cached).catch((error: unknown) => {
        // Engines that cannot load a cached graph load the bundle's; those that crash are here.
        options.log.warn({ reason: messageOf(error) }, 'engines do not start with cached graphs: they load the bundle')
        return start(bundle.graphs)
      })
    })
    return new Inference(options, bundle, choice)
  }

  private constructor(options: InferenceOptions, bundle: Bundle, choice: ProviderChoice<StartedEngine[]>) {
    const { log, metrics } = options
    const { manifest, shape } = bundle
    this.info = {
      name: manifest.name,
      kind: shape.kind,
      prefixes: shape.prefixes,
      modelDigest: bundle.modelDigest,
      bundleDigest: bundle.bundleDigest,
      imageSize: shape.imageSize,
      image: manifest.image,
      length: sequenceLength(shape),
      stages: shape.stages,
      codebook: { ...shape.codebook, normalised: manifest.normalised },
      ...(manifest.source && { source: manifest.source }),
      provider: choice.provider,
      providerReason: choice.reason,
      engines: choice.started.length,
      threads: choice.started[0]?.plan.threads ?? 0,
      maxBatch: maxBatchOf(options, choice),
    }
    this.codebookFile = bundle.codebookFile
    this.#imageBytes = shape.imageSize * shape.imageSize * 3
    this.#batcher = new Batcher(shape, this.info.maxBatch, metrics)
    this.#reservations = new Reservations(options.queueLimit, this.info.engines * this.info.maxBatch)
    const { promise: lost, resolve: giveUp } = Promise.withResolvers<string>()
    this.lost = lost
    const { lostAfterMs = Math.max(LOST_AFTER_MS, readMs(bundle)) } = options
    this.#keepers = choice.started.map(
      ({ engine, start }) =>
        new EngineKeeper(engine, start, {
          up: (ready) => {
            clearTimeout(this.#giveUp)
            this.#failure = undefined
            this.#batcher.add(ready)
          },
          down: (gone, end) => {
            this.#batcher.remove(gone)
            if (this.#batcher.engines === 0) {
              this.#giveUp = setTimeout(() => {
                const why = this.#failure?.message ?? end.reason
                giveUp(`there has been no engine for ${lostAfterMs / 1000} s: ${why}`)
              }, lostAfterMs)
            }
            log.error({ kind: end.kind, reason: end.reason }, 'engine ended, starting a replacement')
            metrics?.engineRestart?.(end)
          },
          failed: (error) => {
            if (this.#batcher.engines === 0) this.#failure = error
            log.error({ err: error }, 'engine did not start, trying again')
          },
        }),
    )
  }

  /** Number of warm engines, out of the number in `info`. */
  get enginesUp(): number {
    return this.#batcher.engines
  }

  /** Images and sequences admitted and not yet answered. */
  get imagesInFlight(): number {
    return this.#reservations.held
  }

  /** Whether at least one engine is warm and the service is not closing. */
  get ready(): boolean {
    return !this.#closing && this.#batcher.engines > 0
  }

  /**
   * Admits images before any work is spent on them. Callers reserve before they encode or decode, and release afterwards.
   * @param deadlineMs milliseconds within which they must be answered
   * @throws QueueFullError at once: when more than `queueLimit` images would be in flight, when they could not be answered
   * in time at the recent pace, when no engine starts, or when closing.
   */
  reserve(images: number, deadlineMs?: number): Reservation {
    if (this.#closing) throw new QueueFullError('the service is closing')
    if (this.#failure) throw new QueueFullError('no engine is ready', NO_ENGINE_RETRY_SECONDS)
    return this.#reservations.reserve(images, deadlineMs)
  }

  /**
   * Encodes one image.
   * @param pixels uint8 `[H,W,3]`, RGB, at the model's size; must not change until the promise settles. Or a promise of
   * them: an engine may wait a moment for images that are being prepared, to run a larger batch.
   * @param length number of tokens, 1 to L; with a parallel model, L.
   * @param signal removes the image from the queue; the promise then rejects with the signal's reason.
   * @returns uint16 ids `[length]`, exactly the first `length` ids of the full encoding.
   * @throws RangeError for a size or length the model does not have; EngineFailedError when the engine failed on this
   * image alone; what the promise of pixels rejects with.
   */
  async encode(
    pixels: Uint8Array | Promise<Uint8Array>,
    length: number,
    signal?: AbortSignal,
  ): Promise<{ tokens: Uint16Array; timings: Timings }> {
    this.#check(length, this.info.kind === 'causal')
    const checked = pixels instanceof Uint8Array ? this.#checkSize(pixels) : pixels.then((p) => this.#checkSize(p))
    return this.#batcher.encode(checked, length, signal)
  }

  /**
   * Decodes one sequence.
   * @param tokens L ids below the codebook's size, or 1 to L where prefixes decode; must not change until the promise settles.
   * @param signal removes the sequence from the queue; the promise then rejects with the signal's reason.
   * @returns uint8 `[H,W,3]`, RGB.
   * @throws RangeError for a length or an id the model does not have; EngineFailedError when the engine failed on this
   * sequence alone.
   */
  async decode(tokens: ArrayLike<number>, signal?: AbortSignal): Promise<{ pixels: Uint8Array; timings: Timings }> {
    this.#check(tokens.length, this.info.prefixes)
    const { size } = this.info.codebook
    for (let index = 0; index < tokens.length; index++) {
      const id = tokens[index]
      if (!(Number.isInteger(id) && id !== undefined && id >= 0 && id < size)) {
        throw new RangeError(`token ${index} is ${id}; ids are 0 to ${size - 1}`)
      }
    }
    return this.#batcher.decode(tokens, signal)
  }

  /** Admits nothing more, waits until everything reserved or queued is answered, then ends the engines. */
  close(): Promise<void> {
    this.#closing ??= this.#finish()
    return this.#closing
  }

  async #finish(): Promise<void> {
    await this.#reservations.emptied()
    await this.#batcher.drained()
    this.#closed = true
    clearTimeout(this.#giveUp)
    await Promise.all(this.#keepers.map((keeper) => keeper.close()))
  }

  #checkSize(pixels: Uint8Array): Uint8Array {
    if (pixels.length === this.#imageBytes) return pixels
    throw new RangeError(`an image must have ${this.#imageBytes} bytes, not ${pixels.length}`)
  }

  /** @param prefixes whether less than a whole sequence is allowed */
  #check(length: number, prefixes: boolean): void {
    if (this.#closed) throw new QueueFullError('the service is closed')
    const longest = this.info.length
    if (!(Number.isInteger(length) && length >= (prefixes ? 1 : longest) && length <= longest)) {
      throw new RangeError(`a sequence must have ${prefixes ? `1 to ${longest}` : longest} tokens, not ${length}`)
    }
  }
}

/** The maximum batch size: the setting, or what the slowest engine can do in time. */
function maxBatchOf({ maxBatch, timeoutMs, log }: InferenceOptions, choice: ProviderChoice<StartedEngine[]>): number {
  const { max } = planBatches(choice.provider, maxBatch)
  const times = choice.started.map(({ engine }) => engine.itemMs)
  const itemMs = {
    encode: Math.max(...times.map(({ encode }) => encode)),
    decode: Math.max(...times.map(({ decode }) => decode)),
  }
  if (Math.max(itemMs.encode, itemMs.decode) > timeoutMs) {
    log.warn(
      { itemMs, timeoutMs },
      'one image takes longer than the time limit for a batch; requests may miss their deadline',
    )
  }
  return maxBatch ?? largestBatch(max, itemMs, timeoutMs)
}

/** A planned engine and how to start it. */
interface EngineStart {
  plan: EnginePlan
  start: () => Promise<Engine>
}

/** A running engine, and how to start its replacement. */
interface StartedEngine extends EngineStart {
  engine: Engine
}

/** Starts all engines. If one does not start, it ends the others. */
async function startAll(starts: EngineStart[]): Promise<StartedEngine[]> {
  const attempts = await Promise.allSettled(starts.map(async (one) => ({ ...one, engine: await one.start() })))
  const started = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : []))
  const failure = attempts.find((attempt) => attempt.status === 'rejected')
  if (!failure) return started
  await Promise.all(started.map(({ engine }) => engine.close()))
  throw failure.reason
}

async function startEngine(
  { graphs, shape }: Pick<Bundle, 'graphs' | 'shape'>,
  provider: Provider,
  { device, threads }: EnginePlan,
  { maxBatch, tf32, timeoutMs, log }: InferenceOptions,
  child: URL,
): Promise<Engine> {
  const batches = planBatches(provider, maxBatch, { threads, imageSize: shape.imageSize })
  let loading = true
  const engine = await ProcessEngine.start({
    config: { graphs, shape, provider, device, threads, tf32, batches },
    timeoutMs,
    child,
    // While loading, ONNX Runtime reports missing CUDA as an error; this code decides whether it is one.
    onStderr: (line) => (loading ? log.info({ line }, 'engine output') : log.warn({ line }, 'engine output')),
  })
  loading = false
  log.info({ enginePid: engine.pid, provider, device, threads, maxBatch: batches.max }, 'engine ready')
  return engine
}
