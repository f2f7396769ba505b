import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setImmediate as immediate } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

// How much of a refused body is read and discarded before the connection closes on a client that is still sending.
const MOST_BYTES = 128 * 2 ** 20
const MOST_MS = 30_000
const MOST_IDLE_MS = 5_000

/**
 * Makes sure that a client receives an answer that is sent before its whole body has arrived. Many clients and proxies
 * read the answer only after they have sent everything; if the connection closes before that, they get a reset instead.
 * So the answer is sent at once, and the rest of the body is read and discarded before the response ends. After 128 MiB,
 * 30 seconds, or 5 seconds without a byte the connection is closed.
 */
export function readUnreadBodies(http: FastifyInstance): void {
  http.addHook('onSend', async (request, reply, payload) => holdOpen(request, reply, payload))
  // By default Node answers "Expect: 100-continue" before any hook has seen the headers. Here only a wanted body gets it.
  http.server.on('checkContinue', (request, response) => http.server.emit('request', request, response))
  http.addHook('preParsing', async ({ raw }, reply) => {
    if (raw.httpVersion === '1.1' && /\b100-continue\b/i.test(raw.headers.expect ?? '')) reply.raw.writeContinue()
  })
  // Other expectations may be ignored (RFC 9110, 10.1.1).
  http.server.on('checkExpectation', (request, response) => http.server.emit('request', request, response))
}

/** Turns an answer into one that ends only when the request's body has been read, up to the limits. */
export function holdOpen(request: FastifyRequest, reply: FastifyReply, payload: unknown): unknown {
  const { raw } = request
  if (raw.complete || raw.destroyed || reply.statusCode === 204) return payload
  if (payload !== null && payload !== undefined && typeof payload !== 'string' && !Buffer.isBuffer(payload)) {
    return payload
  }
  const answer = Buffer.from(payload ?? '')
  reply.header('content-length', answer.length)
  return Readable.from(
    (async function* () {
      if (answer.length > 0) yield answer
      await immediate()
      if (!(await discard(raw))) reply.raw.once('finish', () => raw.socket.destroy())
    })(),
  )
}

/** Reads and discards a body. Returns false if it exceeds the limits. */
async function discard(body: IncomingMessage): Promise<boolean> {
  if (body.complete || body.destroyed) return true
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const bounds = new Bounds(() => resolve(false))
  const count = (chunk: Buffer) => bounds.count(chunk.length)
  const done = () => resolve(true)
  body.on('data', count).once('end', done).once('close', done)
  body.unpipe()
  body.resume()
  const whole = await promise
  bounds.clear()
  body.off('data', count).off('end', done).off('close', done)
  return whole
}

const discarding = new WeakMap<Socket, Bounds>()

/** Whether this connection has its answer, and everything that still arrives on it is discarded. */
export function isDiscarding(socket: Socket): boolean {
  return discarding.has(socket)
}

/** Discards a packet of a connection that has its answer, and closes the connection once the limits are reached. */
export function discardPacket(socket: Socket, packet: Buffer | undefined): void {
  let bounds = discarding.get(socket)
  if (bounds === undefined) {
    bounds = new Bounds(() => socket.destroy())
    discarding.set(socket, bounds)
    socket.once('close', () => bounds?.clear())
  }
  bounds.count(packet?.length ?? 0)
}

/** Calls back when more bytes arrive, or more time passes, than the limits allow. */
class Bounds {
  private readonly exceeded: () => void
  private readonly deadline: NodeJS.Timeout
  private readonly idle: NodeJS.Timeout
  private bytes = 0

  constructor(exceeded: () => void) {
    this.exceeded = exceeded
    this.deadline = setTimeout(exceeded, MOST_MS)
    this.idle = setTimeout(exceeded, MOST_IDLE_MS)
  }

  count(bytes: number): void {
    this.idle.refresh()
    this.bytes += bytes
    if (this.bytes > MOST_BYTES) this.exceeded()
  }

  clear(): void {
    clearTimeout(this.deadline)
    clearTimeout(this.idle)
  }
}
