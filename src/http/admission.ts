import { Transform, type TransformCallback } from 'node:stream'
import type {
  onRequestAsyncHookHandler,
  onResponseAsyncHookHandler,
  onSendAsyncHookHandler,
  preHandlerAsyncHookHandler,
  preParsingAsyncHookHandler,
} from 'fastify'
import type { Reservation } from '../inference/inference.ts'
import { isOfType } from '../routes/shared.ts'
import type { Services } from '../services.ts'
import { ClientGone, Problem } from './problem.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Of encode and decode alone. */
    admission: Admission
  }
}

/** Bytes of all request bodies that are held at once. */
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
    if (this.held + bytes > this.limit) throw new Problem('overloaded', 'the server holds as many bytes as it may')
    this.held += bytes
  }

  give(bytes: number): void {
    this.held -= bytes
  }
}

/**
 * What one request of encode or decode may use: a deadline, a share of the queue, a share of the bytes in flight.
 * All of it is given back when the answer is out or the client has gone.
 */
export class Admission {
  /** Milliseconds a step; the slowest item's where several were at it. */
  readonly timings: Record<string, number> = {}
  /** When a step went on, from its first item's start to its last one's end, on the clock of `performance.now()`. */
  readonly periods: Record<string, { start: number; end: number; items: number }> = {}
  /** Images or sequences of the request, as far as is known. */
  images = 1

  private readonly services: Services
  private readonly bodyLimit: number
  private readonly reservation: Reservation
  private readonly controller = new AbortController()
  private readonly timer: NodeJS.Timeout
  private bytes = 0

  /** @throws QueueFullError if there is no room for even one image, or not enough time */
  constructor(services: Services, bodyLimit: number) {
    this.services = services
    this.bodyLimit = bodyLimit
    const { requestTimeout } = services.config
    this.reservation = services.inference.reserve(1, requestTimeout * 1000)
    this.timer = setTimeout(() => {
      this.abort(new Problem('deadline', `the request was not done within ${requestTimeout} s`))
    }, requestTimeout * 1000)
  }

  get signal(): AbortSignal {
    return this.controller.signal
  }

  /** Ends whatever of the request is still under way. */
  abort(reason: Error): void {
    this.controller.abort(reason)
  }

  /** Counts bytes of the body as they arrive. */
  receive(bytes: number): void {
    this.signal.throwIfAborted()
    if (this.bytes + bytes > this.bodyLimit) {
      throw new Problem('too-many-bytes', `the body is larger than ${this.bodyLimit} bytes`)
    }
    this.services.inflight.take(bytes)
    this.bytes += bytes
  }

  /** Makes room for all images of the request, before any is decoded. */
  admit(images: number): void {
    this.signal.throwIfAborted()
    const { maxImages } = this.services.config
    if (images > maxImages) throw new Problem('too-many-images', `the request has more than ${maxImages} items`)
    if (images > this.images) {
      this.reservation.grow(images - this.images)
      this.images = images
    }
  }

  /** Says that the request has arrived in full: from here on it waits for nothing but this server. */
  begin(): void {
    this.reservation.begin()
  }

  /** Does `work` on all items at once. The first that fails, the deadline or a closed connection ends the others. */
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

  /** Notes how long steps of one item took, one after the other; the last of them has just ended. */
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

  /** Gives everything back. */
  end(): void {
    clearTimeout(this.timer)
    this.reservation.release()
    this.services.inflight.give(this.bytes)
    this.bytes = 0
  }
}

/** A request's body on its way to the parser, counted. A refused body is read to its end, unheard, so that the client,
 * which may still be writing it, gets to read the answer. */
class CountedBody extends Transform {
  private readonly source: NodeJS.ReadableStream
  private readonly admission: Admission

  constructor(source: NodeJS.ReadableStream, admission: Admission) {
    super()
    this.source = source
    this.admission = admission
    // Whoever reads the body hears of an error; with nobody reading, it must not end the process.
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

/** The hooks of encode and decode: admission before the body is read, and the headers that say what it cost. */
export function admissionHooks(services: Services): AdmissionHooks {
  const { config, inference } = services

  return {
    async onRequest(request, reply) {
      const limit = isOfType(request, 'application/json') ? config.jsonBodyLimit : config.bodyLimit
      if (Number(request.headers['content-length']) > limit) {
        throw new Problem('too-many-bytes', `the body is larger than ${limit} bytes`)
      }
      const admission = new Admission(services, limit)
      request.admission = admission
      reply.raw.once('close', () => {
        if (!reply.raw.writableFinished) admission.abort(new ClientGone())
        admission.end()
      })
    },
    async preParsing(request, _reply, payload) {
      // The multipart plugin reads the connection itself; `readParts` counts what it hears.
      return isOfType(request, 'multipart/form-data') ? payload : new CountedBody(payload, request.admission)
    },
    async preHandler(request) {
      request.admission.begin()
    },
    async onSend(request, reply) {
      const timings = Object.entries({ ...request.admission?.timings, total: reply.elapsedTime })
      reply.header('x-model', inference.info.modelDigest)
      reply.header('server-timing', timings.map(([step, ms]) => `${step};dur=${ms.toFixed(2)}`).join(', '))
    },
    async onResponse(request) {
      request.admission?.end()
    },
  }
}
