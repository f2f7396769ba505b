import { ProblemError } from './errors.ts'
import { inOrder } from './in-order.ts'
import type { components, operations } from './openapi.ts'
import { type Group, type Image, type Info, imageGroups, type Many, type Row, rowGroups } from './requests.ts'
import { Service } from './service.ts'

type Schemas = components['schemas']

export interface ConnectOptions {
  /** The service's API key, if it needs one. */
  apiKey?: string
  /** Maximum number of requests in flight. */
  concurrency?: number
  /** Seconds that a request may be refused or without a connection before its error is thrown. */
  patience?: number
  /** A `fetch` to use instead of the platform's, for example to go through a proxy. */
  fetch?: typeof fetch
  signal?: AbortSignal
}

export interface WorkOptions {
  /** Ends the call and aborts its requests. */
  signal?: AbortSignal
  /** Called with the number of finished items. */
  onProgress?: (done: number) => void
}

export interface EncodeOptions extends WorkOptions {
  /** Tokens per image, by default the model's whole sequence. With a causal model, the first ones of the whole sequence. */
  length?: number
}

export interface DecodeOptions extends WorkOptions {
  format?: NonNullable<operations['decode']['parameters']['query']>['format']
  /** Quality of webp and jpeg, 1 to 100. */
  quality?: number
}

/** The vectors that ids stand for. */
export interface Codebook {
  size: number
  dimension: number
  /** Row by row. */
  values: Float32Array<ArrayBuffer>
}

/**
 * A NativeTok service: images to ordered tokens and back.
 *
 * Long lists are cut into requests within the service's limits, a few of them in flight at once; order is kept. A request
 * that is turned away (429, 503) is sent again when the service says so, one whose connection failed after a short while.
 * Nothing that was answered is sent again. Tokens of one model mean nothing to another, so the model that answered first is
 * the only one that this tokenizer accepts.
 */
export class Tokenizer {
  /** The model and the limits as they were when this tokenizer connected. */
  readonly known: Info
  readonly #service: Service
  readonly #concurrency: number

  private constructor(service: Service, known: Info, concurrency: number) {
    this.#service = service
    this.known = known
    this.#concurrency = concurrency
  }

  /**
   * Connects to a service.
   *
   * @throws UnreachableError at once if no service answers
   * @throws ProblemError if it refuses, for example because of a wrong API key
   */
  static async connect(url: string | URL, options: ConnectOptions = {}): Promise<Tokenizer> {
    const { concurrency = 4, patience = 120, signal, ...rest } = options
    if (!(concurrency >= 1)) throw new RangeError(`concurrency is ${concurrency}; it must be 1 or more`)
    const service = new Service(String(url), { patience, ...rest })
    return new Tokenizer(service, await service.info(signal, false), concurrency)
  }

  /**
   * The tokens of each image, in order.
   *
   * @throws ProblemError whose `item` is the index of the image at fault
   * @throws RangeError for a length that the model does not have
   */
  async encode(images: Many<Image>, options: EncodeOptions = {}): Promise<number[][]> {
    return collect(this.encodeStream(images, options), options)
  }

  /**
   * The picture of each row of tokens, in order. Rows may differ in length.
   *
   * @throws ProblemError whose `item` is the index of the row at fault
   */
  async decode(tokens: Many<Row>, options: DecodeOptions = {}): Promise<Blob[]> {
    return collect(this.decodeStream(tokens, options), options)
  }

  /** Like `encode`, for lists that do not fit into memory: yields the rows of one request after the other. */
  async *encodeStream(images: Many<Image>, { length, signal }: EncodeOptions = {}): AsyncGenerator<number[][]> {
    if (length !== undefined && !(Number.isInteger(length) && length >= 1 && length <= this.known.length)) {
      throw new RangeError(`length is ${length}; it must be 1 to ${this.known.length}`)
    }
    const groups = imageGroups(images, this.known, this.#concurrency)
    const work = async (group: Group<Image>, signal: AbortSignal) => {
      const form = formOf(group.items)
      const { tokens } = await this.#send<Schemas['Tokens']>(group, signal, (signal) =>
        this.#service.client.POST('/encode', {
          params: { query: length === undefined ? {} : { length } },
          body: { images: group.items },
          bodySerializer: () => form,
          headers: { Accept: 'application/json' },
          signal,
        }),
      )
      return tokens
    }
    yield* inOrder(groups, work, this.#concurrency, signal)
  }

  /** Like `decode`, for lists that do not fit into memory: yields the pictures of one request after the other. */
  async *decodeStream(tokens: Many<Row>, options: DecodeOptions = {}): AsyncGenerator<Blob[]> {
    const { format = 'png', quality, signal } = options
    const groups = rowGroups(tokens, this.known, this.#concurrency)
    const work = async (group: Group<number[]>, signal: AbortSignal) => {
      const { images } = await this.#send<Schemas['DecodedImages']>(group, signal, (signal) =>
        this.#service.client.POST('/decode', {
          params: { query: { model: this.known.model, format, ...(quality === undefined ? {} : { quality }) } },
          body: { tokens: group.items },
          headers: { Accept: 'application/json' },
          signal,
        }),
      )
      return images.map((image) => new Blob([fromBase64(image)], { type: `image/${format}` }))
    }
    yield* inOrder(groups, work, this.#concurrency, signal)
  }

  /** The codebook, to initialise a generator's embedding. */
  async codebook(options: { signal?: AbortSignal } = {}): Promise<Codebook> {
    const call = (signal: AbortSignal) => this.#service.client.GET('/codebook', { parseAs: 'arrayBuffer', signal })
    const file = await this.#service.send<ArrayBuffer>(call, options.signal)
    await this.info(options) // the answer does not say whose codebook it is
    // The data of a NumPy file of version 1, whose type and shape the contract promises.
    const values = new Float32Array(file.slice(10 + new DataView(file).getUint16(8, true)))
    return { ...this.known.codebook, values }
  }

  /** The current model and limits of the service. */
  info({ signal }: { signal?: AbortSignal } = {}): Promise<Info> {
    return this.#service.info(signal)
  }

  /** Sends the request of a group; an item at fault is told by its place in the caller's list. */
  async #send<T>(group: Group<unknown>, signal: AbortSignal, call: Parameters<Service['send']>[0]): Promise<T> {
    try {
      return await this.#service.send<T>(call, signal)
    } catch (error) {
      throw error instanceof ProblemError ? new ProblemError(error.status, error.problem, itemOf(error, group)) : error
    }
  }
}

/** Where in the caller's list the item is that the service found at fault. */
function itemOf({ status, problem }: ProblemError, { first, items }: Group<unknown>): number | undefined {
  if (problem.item !== undefined) return first + problem.item
  // What is said of a request's bytes, pixels or engine is said of its only item.
  return items.length === 1 && [413, 415, 422, 500].includes(status) ? first : undefined
}

async function collect<T>(stream: AsyncGenerator<T[]>, { onProgress }: WorkOptions): Promise<T[]> {
  const all: T[] = []
  for await (const some of stream) {
    for (const one of some) all.push(one)
    onProgress?.(all.length)
  }
  return all
}

function formOf(images: Image[]): FormData {
  const form = new FormData()
  for (const [i, image] of images.entries()) {
    form.append('images', image instanceof Blob ? image : new Blob([image]), String(i))
  }
  return form
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
}
