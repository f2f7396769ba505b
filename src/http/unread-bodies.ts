import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setImmediate as immediate } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

// How much of a refused body is read and thrown away before the connection is closed on a client that is still sending.
const MOST_BYTES = 128 * 2 ** 20
const MOST_MS = 30_000
const MOST_IDLE_MS = 5_000

/**
 * Makes an answer reach its client when it is given before the whole body has arrived. Many clients, and proxies, read
 * an answer only after they have sent everything; if the connection closes before that, they see a reset and no answer.
 * So the answer is sent at once, and what is left of the body is read and thrown away before the response ends.
 * 128 MiB, 30 seconds, or 5 seconds without a byte are the most; then the connection is closed.
 */
export function readUnreadBodies(http: FastifyInstance): void {
  http.addHook('onSend', async (request, reply, payload) => holdOpen(request, reply, payload))
  // Node would tell a client that waits for leave to send its body to go on before anybody has looked at its headers.
  http.server.on('checkContinue', (request, response) => http.server.emit('request', request, response))
  http.addHook('preParsing', async ({ raw }, reply) => {
    if (raw.httpVersion === '1.1' && /\b100-continue\b/i.test(raw.headers.expect ?? '')) reply.raw.writeContinue()
  })
  // Other expectations may be ignored (RFC 9110, 10.1.1).
  http.server.on('checkExpectation', (request, response) => http.server.emit('request', request, response))
}

/** Turns an answer into one that ends when the request's body has been read, or as much of it as is bearable. */
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

/** Reads a body to its end, and nothing of it is kept. False where it has more than the bounds allow. */
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

/** Whether this connection was answered and what still comes on it is thrown away. */
export function isDiscarding(socket: Socket): boolean {
  return discarding.has(socket)
}

/** Throws away a packet of a connection that has got its answer, and closes the connection when it was the last one. */
export function discardPacket(socket: Socket, packet: Buffer | undefined): void {
  let bounds = discarding.get(socket)
  if (bounds === undefined) {
    bounds = new Bounds(() => socket.destroy())
    discarding.set(socket, bounds)
    socket.once('close', () => bounds?.clear())
  }
  bounds.count(packet?.length ?? 0)
}

/** Calls back once when more bytes, or more time, have gone by than the bounds allow. */
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
