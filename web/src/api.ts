import type { components } from '../../src/http/openapi.d.ts'
import { contextOf } from './canvas.ts'
import type { Picture } from './pixels.ts'

/** What is served. */
export type Info = components['schemas']['Info']
type Problem = components['schemas']['Problem']
type Tokens = components['schemas']['Tokens']
type DecodedImages = components['schemas']['DecodedImages']

/** The service refused, or did not answer. The message is for people: the problem document's `detail`. */
export class ApiError extends Error {
  readonly status: number | undefined

  constructor(message: string, status?: number) {
    super(message)
    this.status = status
  }
}

const MOST_ATTEMPTS = 4
// A longer wait is shown to the user instead.
const LONGEST_WAIT_S = 5

/** The service behind this page. The API key lives in here and nowhere else, and is gone when the page closes. */
export class Api {
  readonly #askKey: (refused: boolean) => Promise<string | undefined>
  #key: string | undefined
  #asking: Promise<void> | undefined

  /** @param askKey asks the user for a key; `refused` says that the one before was not accepted */
  constructor(askKey: (refused: boolean) => Promise<string | undefined>) {
    this.#askKey = askKey
  }

  /** Whether the service has asked for a key. */
  get keyed(): boolean {
    return this.#key !== undefined
  }

  async info(): Promise<Info> {
    return (await this.#call('info', {})).json()
  }

  /** An image file's tokens. */
  async encode(file: Blob, signal: AbortSignal): Promise<number[]> {
    const body = new FormData()
    body.append('images', file)
    const { tokens } = (await (await this.#call('encode', { method: 'POST', body, signal })).json()) as Tokens
    return tokens[0] as number[]
  }

  /** Decodes sequences to pictures, in order and without loss. */
  async decode(sequences: number[][], model: string, signal: AbortSignal): Promise<Picture[]> {
    const response = await this.#call(`decode?format=png&model=${model}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ tokens: sequences }),
      signal,
    })
    const { images } = (await response.json()) as DecodedImages
    return Promise.all(images.map(pixelsOf))
  }

  async #call(path: string, init: RequestInit): Promise<Response> {
    for (let attempt = 1; ; attempt++) {
      const sent = this.#key
      const response = await this.#send(path, init)
      if (response.ok) return response
      if (response.status === 401) {
        await this.#newKey(sent)
        init.signal?.throwIfAborted()
        continue
      }
      // Nothing was done; the server says when to retry.
      const wait = Number(response.headers.get('retry-after') ?? 1)
      const refused = response.status === 503 || response.status === 429
      if (refused && wait <= LONGEST_WAIT_S && attempt < MOST_ATTEMPTS) {
        await delay(wait, init.signal)
        continue
      }
      throw await errorOf(response)
    }
  }

  async #send(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers)
    if (this.#key !== undefined) headers.set('x-api-key', this.#key)
    try {
      return await fetch(new URL(path, document.baseURI), { ...init, headers })
    } catch (error) {
      if (init.signal?.aborted) throw error
      throw new ApiError('The service does not answer. Is it still running?')
    }
  }

  /** Asks once, however many requests were refused. */
  async #newKey(refused: string | undefined): Promise<void> {
    if (this.#key !== refused) return
    this.#asking ??= this.#askKey(refused !== undefined)
      .then((key) => {
        if (key === undefined) throw new ApiError('The service needs an API key. Reload the page to enter one.', 401)
        this.#key = key
      })
      .finally(() => {
        this.#asking = undefined
      })
    await this.#asking
  }
}

async function errorOf(response: Response): Promise<ApiError> {
  const type = response.headers.get('content-type') ?? ''
  if (!type.startsWith('application/problem+json')) {
    return new ApiError(`The service answered with status ${response.status}.`, response.status)
  }
  const { title, detail } = (await response.json()) as Problem
  return new ApiError(`${title}: ${detail}`, response.status)
}

function delay(seconds: number, signal: AbortSignal | null | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000)
    signal?.addEventListener('abort', () => {
      clearTimeout(timer)
      reject(signal.reason)
    })
  })
}

async function pixelsOf(base64: string): Promise<Picture> {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))
  const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/png' }))
  const context = contextOf(bitmap.width, bitmap.height)
  context.drawImage(bitmap, 0, 0)
  bitmap.close()
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height)
}
