import { setTimeout as sleep } from 'node:timers/promises'
import { parseNpy, writeNpy } from '../../formats/npy.ts'
import type { ImagePreparation, Provider } from '../../inference/inference.ts'
import { ItemError, messageOf, OptionsError } from '../errors.ts'
import type { Model, Tokenizer } from './tokenizer.ts'

export interface RemoteOptions {
  /** Base URLs of services. */
  urls: readonly string[]
  /** Sent to every service, if there is one. */
  apiKey: string | undefined
  /** Receives a sentence when a service stops answering. */
  say(line: string): void
  /** How long no service may answer before the run fails, in milliseconds. */
  giveUpMs?: number
}

/** The part of `GET /info` that is used. */
interface Info {
  name: string
  model: string
  bundle: string
  kind: 'causal' | 'parallel'
  image: ImagePreparation
  length: number
  codebook: { size: number }
  provider: Provider
  engines: number
  maxBatch: number
  limits: { images: number; bodyBytes: number; requestSeconds: number }
}

/** A view that waits for its tokens. */
interface View {
  pixels: Uint8Array
  length: number
  /** Whether a batch with it failed in an engine, so that it is now sent by itself. */
  alone: boolean
  resolve(tokens: Uint16Array): void
  reject(error: unknown): void
}

interface Service {
  url: string
  info: Info
  /** Views per request. */
  batch: number
  /** Requests that it may still be sent at once. */
  free: number
  /** Since when it has not answered, and how often it was tried. */
  failing: { since: number; tries: number } | undefined
}

/** Ten minutes: longer than a service takes to start again or to be rolled out. */
const GIVE_UP_MS = 600_000
const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [250, 10_000]
/** What a service or a proxy before it answers when a request may succeed later. */
const LATER = [429, 502, 503, 504]
/** An answer may take this much longer than the service's own deadline. */
const GRACE_MS = 5000
const NPY_HEADER_BYTES = 128

/**
 * Encodes with running services of one model. A service gets a request for each of its engines and one more; a batch that it
 * does not answer goes to whichever service is free first.
 */
export class RemoteTokenizer implements Tokenizer {
  readonly model: Model
  readonly capacity: number
  readonly #services: Service[]
  readonly #options: RemoteOptions
  readonly #size: number
  readonly #waiting: View[] = []
  readonly #closed = new AbortController()
  #failure: Error | undefined

  /** @throws OptionsError if an address is no service, or services have different models */
  static async start(options: RemoteOptions): Promise<RemoteTokenizer> {
    const infos = await Promise.all(options.urls.map((url) => infoOf(url, options.apiKey)))
    const [first] = infos as [Info]
    const other = infos.findIndex(({ model }) => model !== first.model)
    if (other >= 0) {
      throw new OptionsError(
        `${options.urls[0]} and ${options.urls[other]} serve different models, whose tokens cannot be mixed`,
      )
    }
    return new RemoteTokenizer(options, infos)
  }

  private constructor(options: RemoteOptions, infos: Info[]) {
    const { name, model, bundle, kind, image, length, codebook, provider } = infos[0] as Info
    this.#options = options
    this.#size = image.size
    this.model = {
      ...{ name, model, bundle, prefixes: kind === 'causal' },
      ...{ image, length, codebookSize: codebook.size, provider },
    }
    const bytes = image.size * image.size * 3
    this.#services = infos.map((info, i) => {
      const { maxBatch, engines, limits } = info
      const fits = Math.floor((limits.bodyBytes - NPY_HEADER_BYTES) / bytes)
      const batch = Math.max(1, Math.min(maxBatch, limits.images, fits))
      return { url: options.urls[i] as string, info, batch, free: engines + 1, failing: undefined }
    })
    this.capacity = 2 * this.#services.reduce((sum, { batch, free }) => sum + batch * free, 0)
  }

  encode(pixels: Uint8Array, length: number): Promise<Uint16Array> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure)
      this.#waiting.push({ pixels, length, alone: false, resolve, reject })
      this.#pump()
    })
  }

  async close(): Promise<void> {
    this.#fail(new Error('the tokenizer is closed'))
    this.#closed.abort()
  }

  #pump(): void {
    for (const service of this.#services) {
      while (service.free > 0 && this.#waiting.length > 0) void this.#send(service, this.#take(service.batch))
    }
  }

  /** The next views of one length, or one that has to go alone. */
  #take(most: number): View[] {
    const [first] = this.#waiting as [View, ...View[]]
    const end = this.#waiting.findIndex((view, i) => i >= most || view.length !== first.length || (i > 0 && view.alone))
    return this.#waiting.splice(0, first.alone ? 1 : end < 0 ? this.#waiting.length : end)
  }

  async #send(service: Service, views: View[]): Promise<void> {
    service.free--
    let pause = 0
    try {
      const rows = await this.#request(service, views)
      service.failing = undefined
      for (const [i, view] of views.entries()) view.resolve(rows[i] as Uint16Array)
    } catch (error) {
      if (error instanceof EngineFailed) this.#isolate(views, error)
      else if (error instanceof TryLater) {
        this.#waiting.unshift(...views)
        pause = this.#pauseAfter(service, error)
      } else this.#fail(error as Error, views)
    }
    if (pause > 0) await sleep(pause, undefined, { signal: this.#closed.signal }).catch(() => {})
    service.free++
    this.#pump()
  }

  /** Sends the views of a batch that failed one by one, since one of them may be the reason. */
  #isolate(views: View[], error: EngineFailed): void {
    const [only] = views
    if (views.length === 1 && only) {
      only.reject(new ItemError(error.message))
      return
    }
    for (const view of views) view.alone = true
    this.#waiting.unshift(...views)
  }

  /** Milliseconds until a service that did not answer is tried again. */
  #pauseAfter(service: Service, { message, retryAfterMs }: TryLater): number {
    const now = performance.now()
    if (service.failing === undefined) this.#options.say(`${service.url} ${message}; trying again`)
    service.failing ??= { since: now, tries: 0 }
    const { giveUpMs = GIVE_UP_MS } = this.#options
    if (this.#services.every(({ failing }) => failing !== undefined && now - failing.since >= giveUpMs)) {
      this.#fail(new Error(`no service has answered for ${giveUpMs / 1000} s: ${service.url} ${message}`))
      return 0
    }
    const backOff = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** service.failing.tries++)
    return retryAfterMs ?? backOff
  }

  #fail(error: Error, views: View[] = []): void {
    this.#failure ??= error
    for (const view of [...views, ...this.#waiting.splice(0)]) view.reject(this.#failure)
  }

  async #request({ url, info }: Service, views: View[]): Promise<Uint16Array[]> {
    const [{ length }] = views as [View]
    const body = writeNpy(
      '|u1',
      [views.length, this.#size, this.#size, 3],
      views.map(({ pixels }) => pixels),
    )
    const signal = AbortSignal.timeout(info.limits.requestSeconds * 1000 + GRACE_MS)
    const headers = {
      ...keyHeader(this.#options.apiKey),
      'content-type': 'application/x-npy',
      accept: 'application/x-npy',
    }
    let answer: Response
    let bytes: Buffer
    try {
      answer = await fetch(`${url}/encode?length=${length}`, { method: 'POST', headers, body, signal })
      bytes = Buffer.from(await answer.arrayBuffer())
    } catch (error) {
      throw new TryLater(`does not answer (${reasonOf(error)})`)
    }
    if (LATER.includes(answer.status)) {
      const seconds = Number(answer.headers.get('retry-after') ?? Number.NaN)
      throw new TryLater(`answers ${answer.status}`, Number.isFinite(seconds) ? seconds * 1000 : undefined)
    }
    if (answer.status === 500) throw new EngineFailed(detailOf(bytes))
    if (answer.status !== 200) throw new Error(`${url} answers ${answer.status}: ${detailOf(bytes)}`)
    const served = answer.headers.get('x-model')
    if (served !== null && served !== this.model.model) throw new Error(`${url} now serves another model`)
    return rowsOf(bytes, views.length, length, url)
  }
}

/** The request may succeed later. `message` continues a sentence that names the service. */
class TryLater extends Error {
  readonly retryAfterMs: number | undefined

  constructor(message: string, retryAfterMs?: number) {
    super(message)
    this.retryAfterMs = retryAfterMs
  }
}

/** An engine of the service failed on the batch, and again on one of its views. */
class EngineFailed extends Error {}

async function infoOf(url: string, apiKey: string | undefined): Promise<Info> {
  try {
    const answer = await fetch(`${url}/info`, { headers: keyHeader(apiKey), signal: AbortSignal.timeout(GRACE_MS) })
    if (!answer.ok) throw new Error(`${answer.status}: ${detailOf(Buffer.from(await answer.arrayBuffer()))}`)
    return (await answer.json()) as Info
  } catch (error) {
    throw new OptionsError(`${url} does not answer GET /info as a service does (${reasonOf(error)})`)
  }
}

function keyHeader(apiKey: string | undefined): Record<string, string> {
  return apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
}

/** uint16 `[N,length]` as rows. */
function rowsOf(bytes: Buffer, count: number, length: number, url: string): Uint16Array[] {
  const { dtype, shape, data } = parseNpy(bytes)
  if (dtype !== 'u2' || shape.join() !== [count, length].join()) {
    throw new Error(`${url} answered an array ${dtype} [${shape}] instead of tokens`)
  }
  const ids = new Uint16Array(new Uint8Array(data).buffer)
  return Array.from({ length: count }, (_, i) => ids.subarray(i * length, (i + 1) * length))
}

/** What a problem answer says was wrong. */
function detailOf(bytes: Buffer): string {
  try {
    return String(JSON.parse(bytes.toString()).detail)
  } catch {
    return bytes.toString('utf8', 0, 200)
  }
}

/** Why a fetch failed: its own message says only that it did. */
function reasonOf(error: unknown): string {
  const { cause } = error as { cause?: unknown }
  return messageOf(cause ?? error)
}
