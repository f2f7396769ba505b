import createClient, { type Client } from 'openapi-fetch'
import { ModelChangedError, type Problem, ProblemError, UnreachableError } from './errors.ts'
import type { paths } from './openapi.ts'
import type { Info } from './requests.ts'

/** An answer as `openapi-fetch` returns it. */
interface Answer {
  data?: unknown
  error?: unknown
  response: Response
}

/** Statuses that mean nothing was done; a proxy sends 502 when its connection to the service failed. */
const TURNED_AWAY = [429, 502, 503]
const FIRST_PAUSE = 100
const LONGEST_PAUSE = 2000
/** Milliseconds over the service's own deadline, which it keeps itself: who waits longer waits for nobody. */
const SPARE = 15_000

export interface ServiceOptions {
  apiKey?: string
  /** Seconds that a request may be refused before its error is thrown. */
  patience: number
  fetch?: typeof fetch
}

/** One service: when a request is sent again, what its errors are, and which model its tokens belong to. */
export class Service {
  readonly client: Client<paths>
  readonly #url: string
  readonly #patience: number
  #model: string | undefined
  #deadline = 30_000
  #notBefore = 0

  constructor(url: string, options: ServiceOptions) {
    this.#url = url.replace(/\/+$/, '')
    this.#patience = options.patience * 1000
    const headers = options.apiKey === undefined ? {} : { Authorization: `Bearer ${options.apiKey}` }
    this.client = createClient<paths>({ baseUrl: this.#url, headers, fetch: options.fetch })
  }

  /** `GET /info`. If not `patient`, an unreachable service is an error at once. */
  async info(signal: AbortSignal | undefined, patient = true): Promise<Info> {
    const info = await this.send<Info>((signal) => this.client.GET('/info', { signal }), signal, patient)
    this.#deadline = info.limits.requestSeconds * 1000
    this.#pin(info.model)
    return info
  }

  /**
   * Sends a request until it is answered. Encode and decode are functions of what they are sent, so one of which no answer
   * came may be sent again. A 429 or 503 is waited out as `Retry-After` says, as far as patience reaches.
   *
   * @throws ProblemError an error's answer
   * @throws ModelChangedError the answer is of another model than those before
   * @throws UnreachableError no answer came in time
   */
  async send<T>(
    call: (signal: AbortSignal) => Promise<Answer>,
    signal: AbortSignal | undefined,
    patient = true,
  ): Promise<T> {
    const giveUp = Date.now() + this.#patience
    for (let attempt = 0; ; attempt++) {
      await sleep(this.#notBefore - Date.now(), signal)
      let failure: Error
      let pause: number
      let tryAgain = true
      try {
        const late = AbortSignal.timeout(this.#deadline + SPARE)
        const { data, error, response } = await call(signal ? AbortSignal.any([signal, late]) : late)
        const model = response.headers.get('x-model')
        if (model !== null) this.#pin(model)
        if (response.ok) return data as T
        failure = new ProblemError(response.status, problemOf(error, response))
        if (!TURNED_AWAY.includes(response.status)) throw failure
        pause = retryAfter(response.headers.get('retry-after'))
        // It is the same for every request of this client.
        this.#notBefore = Math.max(this.#notBefore, Date.now() + pause)
      } catch (error) {
        signal?.throwIfAborted()
        if (!isBroken(error)) throw error
        failure = new UnreachableError(`${this.#url} cannot be reached: ${reasonOf(error)}`, { cause: error })
        pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt) * (0.5 + Math.random() / 2)
        tryAgain = patient
      }
      if (!tryAgain || Date.now() + pause > giveUp) throw failure
      await sleep(pause, signal)
    }
  }

  #pin(model: string): void {
    this.#model ??= model
    if (model !== this.#model) {
      const [now, before] = [model.slice(0, 16), this.#model.slice(0, 16)]
      throw new ModelChangedError(
        `${this.#url} now has model ${now}…, not ${before}… as before; their tokens do not mix`,
      )
    }
  }
}

/** Milliseconds in a `Retry-After` header, in either of its forms; 1,000 if it is missing or invalid. */
export function retryAfter(value: string | null): number {
  if (value === null) return 1000
  if (/^\s*\d+\s*$/.test(value)) return Number(value) * 1000
  const date = Date.parse(value)
  return Number.isNaN(date) ? 1000 : Math.max(0, date - Date.now())
}

/** `fetch` throws a TypeError for a connection that failed, before or while the answer is read. */
function isBroken(error: unknown): error is Error {
  return error instanceof TypeError || (error instanceof DOMException && error.name === 'TimeoutError')
}

function reasonOf(error: Error): string {
  return error.cause instanceof Error && error.cause.message ? error.cause.message : error.message
}

/** The problem document of an error's answer, or a substitute if a proxy answered. */
function problemOf(error: unknown, response: Response): Problem {
  if (typeof error === 'object' && error !== null && 'title' in error) return error as Problem
  const detail = typeof error === 'string' ? error.slice(0, 200) : ''
  return { type: 'about:blank', title: response.statusText, status: response.status, detail }
}

/** @throws the signal's reason when it is aborted meanwhile */
async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted()
  if (ms <= 0) return
  await new Promise<void>((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }, ms)
    signal?.addEventListener('abort', abort, { once: true })
  })
}
