import { Transform, type TransformCallback } from 'node:stream'
import type {
  FastifyRequest,
  onRequestAsyncHookHandler,
  onResponseAsyncHookHandler,
  onSendAsyncHookHandler,
  preHandlerAsyncHookHandler,
  preParsingAsyncHookHandler,
} from 'fastify'
import type { Config } from '../config.ts'
import type { Inference, Reservation } from '../inference/inference.ts'
import { mediaTypeOf } from './media-types.ts'
import { ClientGone, Problem } from './problem.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Only encode and decode requests have one, from their onRequest hook on. */
    admission?: Admission
  }
}

/** The admission of an encode or decode request. */
export function admissionOf({ admission }: FastifyRequest): Admission {
  if (admission === undefined) throw new Error('the route has no admission hooks')
  return admission
}

/** What admission decisions depend on. */
interface Limits {
  config: Pick<Config, 'requestTimeout' | 'maxImages' | 'bodyLimit' | 'jsonBodyLimit'>
  inference: Inference
  inflight: InflightBytes
}

/** Counts the bytes of all request bodies in memory. */
export class InflightBytes {
  private readonly limit: number
  private held = 0

  constructor(limit: number) {
    this.limit = limit
  }

  get bytes(): number {
    return this.held
  }

  take(bytes: number): void {
    if (this.held + bytes > this.limit)
      throw new Problem(
        'overloaded',
        'the bodies of all requests together have reached the memory limit; try again later',
      )
    this.held += bytes
  }

  give(bytes: number): void {
    this.held -= bytes
  }
}

/**
 * What one encode or decode request occupies: places in the queue and bytes in memory, until its deadline. Everything is
 * released when the answer is sent or the client disconnects.
 */
export class Admission {
  /** Milliseconds per step; if there are several items, those of the slowest. */
  readonly timings: Record<string, number> = {}
  /** When each step ran, from the start of its first item to the end of its last, as `performance.now()` values. */
  readonly periods: Record<string, { start: number; end: number; items: number }> = {}
  /** Images or sequences in the request, as far as known. */
  images = 1

  private readonly limits: Limits
  private readonly bodyLimit: BodyLimit
  private readonly reservation: Reservation
  private readonly controller = new AbortController()
  private readonly timer: NodeJS.Timeout
  private bytes = 0

  /** @throws QueueFullError if there is no place for even one image, or not enough time */
  constructor(limits: Limits, bodyLimit: BodyLimit) {
    this.limits = limits
    this.bodyLimit = bodyLimit
    const { requestTimeout } = limits.config
    this.reservation = limits.inference.reserve(1, requestTimeout * 1000)
    this.timer = setTimeout(() => {
      this.abort(new Problem('deadline', `the request was not answered within ${requestTimeout} s`))
    }, requestTimeout * 1000)
  }

  get signal(): AbortSignal {
    return this.controller.signal
  }

  /** Cancels everything that still runs for the request. */
  abort(reason: Error): void {
    this.controller.abort(reason)
  }

  /** Counts bytes of the body as they arrive. */
  receive(bytes: number): void {
    this.signal.throwIfAborted()
    if (this.bytes + bytes > this.bodyLimit.bytes) throw tooLarge(this.bodyLimit)
    this.limits.inflight.take(bytes)
    this.bytes += bytes
  }

  /** Reserves places for all images of the request, before any is decoded. */
  admit(images: number): void {
    this.signal.throwIfAborted()
    const { maxImages } = this.limits.config
    if (images > maxImages)
      throw new Problem('too-many-images', `the request has more than ${maxImages} images or sequences (--max-images)`)
    if (images > this.images) {
      this.reservation.grow(images - this.images)
      this.images = images
    }
  }

  /** Notes that the whole request has arrived. */
  begin(): void {
    this.reservation.begin()
  }

  /** Runs `work` on all items at once. The first failure, the deadline or a closed connection cancels the others. */
  async each<T, R>(items: readonly T[], work: (item: T, index: number) => Promise<R>): Promise<R[]> {
    const { signal } = this
    signal.throwIfAborted()
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    })
    const doOne = async (item: T, index: number) => {
      const result = await work(item, index)
      this.reservation.done()
      return result
    }
    try {
      return await Promise.race([Promise.all(items.map(doOne)), aborted])
    } catch (error) {
      this.abort(error as Error)
      throw error
    }
  }

  /** Records how long the steps of one item took, one after the other; the last one has just ended. */
  time(timings: Record<string, number>): void {
    const steps = Object.entries(timings)
    for (const [step, duration] of steps) this.timings[step] = Math.max(this.timings[step] ?? 0, duration)
    let end = performance.now()
    for (const [step, duration] of steps.reverse()) {
      const start = end - duration
      const before = this.periods[step] ?? { start, end, items: 0 }
      const items = before.items + 1
      this.periods[step] = { start: Math.min(before.start, start), end: Math.max(before.end, end), items }
      end = start
    }
  }

  /** Releases everything. */
  end(): void {
    clearTimeout(this.timer)
    this.reservation.release()
    this.limits.inflight.give(this.bytes)
    this.bytes = 0
  }
}

/** Counts a request's body on its way to the parser, and stops passing it on when the request is refused. */
class CountedBody extends Transform {
  private readonly source: NodeJS.ReadableStream
  private readonly admission: Admission

  constructor(source: NodeJS.ReadableStream, admission: Admission) {
    super()
    this.source = source
    this.admission = admission
    // The reader of the body handles errors; without a reader, an error must not end the process.
    this.on('error', () => {})
    admission.signal.addEventListener('abort', () => this.destroy(admission.signal.reason), { once: true })
    source.pipe(this)
  }

  override _transform(chunk: Buffer, _: BufferEncoding, done: TransformCallback): void {
    try {
      this.admission.receive(chunk.length)
      done(null, chunk)
    } catch (error) {
      done(error as Error)
    }
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.source.unpipe(this)
    this.source.resume()
    done(error)
  }
}

interface AdmissionHooks {
  onRequest: onRequestAsyncHookHandler
  preParsing: preParsingAsyncHookHandler
  preHandler: preHandlerAsyncHookHandler
  onSend: onSendAsyncHookHandler
  onResponse: onResponseAsyncHookHandler
}

/** The largest body that a request may have. */
interface BodyLimit {
  bytes: number
  /** The flag that sets it. */
  setting: string
}

function tooLarge({ bytes, setting }: BodyLimit): Problem {
  return new Problem('too-many-bytes', `the body is larger than ${bytes} bytes (${setting})`)
}

/** The hooks of encode and decode: they admit a request before its body is read, and add the timing headers. */
export function admissionHooks(limits: Limits): AdmissionHooks {
  const { config, inference } = limits

  return {
    async onRequest(request, reply) {
      const limit: BodyLimit =
        mediaTypeOf(request) === 'application/json'
          ? { bytes: config.jsonBodyLimit, setting: '--json-body-limit' }
          : { bytes: config.bodyLimit, setting: '--body-limit' }
      if (Number(request.headers['content-length']) > limit.bytes) throw tooLarge(limit)
      const admission = new Admission(limits, limit)
      request.admission = admission
      reply.raw.once('close', () => {
        if (!reply.raw.writableFinished) admission.abort(new ClientGone())
        admission.end()
      })
    },
    async preParsing(request, _reply, payload) {
      // The multipart plugin reads the connection itself; `readParts` counts the bytes.
      return mediaTypeOf(request) === 'multipart/form-data' ? payload : new CountedBody(payload, admissionOf(request))
    },
    async preHandler(request) {
      admissionOf(request).begin()
    },
    async onSend(request, reply) {
      const timings = Object.entries({ ...request.admission?.timings, total: reply.elapsedTime })
      reply.header('x-model', inference.info.modelDigest)
      reply.header('server-timing', timings.map(([step, ms]) => `${step};dur=${ms.toFixed(2)}`).join(', '))
      if (!request.raw.complete) {
        // The rest of the body is discarded and needs no place in the queue.
        request.admission?.abort(new Problem('malformed', 'answered before the body had arrived'))
        request.admission?.end()
      }
    },
    async onResponse(request) {
      request.admission?.end()
    },
  }
}
