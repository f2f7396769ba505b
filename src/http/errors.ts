import { randomUUID } from 'node:crypto'
import { maxHeaderSize, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { ConnectionError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { QueueFullError } from '../inference/inference.ts'
import { type Contract, methodsOf } from './contract.ts'
import { securityHeaders } from './headers.ts'
import { ClientGone, Problem, type ProblemKind, toProblem } from './problem.ts'
import { discardPacket, holdOpen, isDiscarding } from './unread-bodies.ts'

interface ErrorOptions {
  contract: Contract
  /** Whether the server is shutting down. */
  draining: () => boolean
  /** Called for every failed request. */
  onError: (kind: ProblemKind | 'client-gone') => void
}

/** Turns every failure into `application/problem+json`, and logs those that are the server's fault. */
export function addErrorHandling(http: FastifyInstance, { contract, draining, onError }: ErrorOptions): void {
  http.addHook('onRequest', async (request, reply) => {
    refuseAmbiguous(request)
    // Before the body is read: Fastify would read and parse it even for a route that does not exist.
    if (request.is404) refuseUnknown(request, reply, contract)
  })
  // For files that Swagger UI does not have.
  http.setNotFoundHandler((request, reply) => refuseUnknown(request, reply, contract))
  http.setErrorHandler((error, request, reply) => {
    // Fastify would close the connection of a client that is still sending; what is left of its body is read instead.
    if (reply.hasHeader('connection') && !draining()) {
      reply.header('connection', reply.raw.shouldKeepAlive ? 'keep-alive' : 'close')
    }
    if (error instanceof ClientGone) {
      onError('client-gone')
      return reply.code(499).send()
    }
    const problem = toProblem(error)
    onError(problem.kind)
    // Without the detail, which may quote what the client sent.
    request.log.debug({ kind: problem.kind, ...problem.place }, 'refused')
    if (problem.status >= 500 && problem.status !== 503)
      request.log.error({ err: problem.cause ?? error }, problem.message)
    if (problem.status === 503) {
      reply.header('retry-after', problem.cause instanceof QueueFullError ? problem.cause.retryAfter : 1)
    }
    if (problem.status === 401) reply.header('www-authenticate', 'Bearer')
    return reply
      .code(problem.status)
      .type('application/problem+json')
      .send(JSON.stringify(problem.body(request.id)))
  })
}

/** Refuses what Node accepts and RFC 9112 forbids: more than one Host, and transfer codings other than chunked. */
function refuseAmbiguous({ raw }: FastifyRequest): void {
  if (raw.rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host').length > 1) {
    throw new Problem('malformed', 'the request has more than one Host')
  }
  const coding = raw.headers['transfer-encoding'] ?? 'chunked'
  if (coding.toLowerCase() !== 'chunked') {
    throw new Problem('unsupported-type', `the transfer coding ${coding} is not supported`)
  }
}

/** Refuses a path that does not exist, or a method that the path does not support. */
function refuseUnknown(request: FastifyRequest, reply: FastifyReply, contract: Contract): never {
  const path = request.url.split(/[?#]/, 1)[0] as string
  const methods = methodsOf(contract, path)
  if (methods.length === 0) throw new Problem('not-found', `there is no ${request.method} ${request.url}`)
  reply.header('allow', methods.join(', '))
  throw new Problem('method-not-allowed', `${path} supports ${methods.join(' and ')}, not ${request.method}`)
}

/** Answers a URL that cannot be decoded, which Fastify refuses before any hook runs. */
export function answerFrameworkError(error: Error, request: FastifyRequest, reply: FastifyReply): void {
  const problem = new Problem('malformed', error.message)
  reply
    .headers(securityHeaders)
    .header('x-request-id', request.id)
    .code(problem.status)
    .type('application/problem+json')
  reply.send(holdOpen(request, reply, JSON.stringify(problem.body(request.id))))
}

/** Answers bytes that are not HTTP. Node has no request for them. */
export function answerBrokenRequest(error: ConnectionError, socket: Socket): void {
  // Fastify's type declares the packet in its JSON form.
  const packet = error.rawPacket as unknown as Buffer | undefined
  // Node reports every packet that follows the broken one.
  if (isDiscarding(socket)) {
    discardPacket(socket, packet)
    return
  }
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  const id = randomUUID()
  const problem = brokenRequest(error)
  const body = JSON.stringify(problem.body(id))
  socket.end(
    [
      `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
      'Content-Type: application/problem+json',
      `Content-Length: ${Buffer.byteLength(body)}`,
      `X-Request-Id: ${id}`,
      ...Object.entries(securityHeaders).map(([name, value]) => `${name}: ${value}`),
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  )
  discardPacket(socket, packet)
}

function brokenRequest(error: Error & { code?: string }): Problem {
  switch (error.code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new Problem('deadline', 'the request did not arrive in time')
    case 'HPE_HEADER_OVERFLOW':
      return new Problem('headers-too-large', `the request line and headers are larger than ${maxHeaderSize} bytes`)
    default:
      return new Problem('malformed', `this is not an HTTP request: ${error.message}`)
  }
}
