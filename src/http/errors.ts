import { randomUUID } from 'node:crypto'
import { maxHeaderSize, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { ConnectionError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { QueueFullError } from '../inference/inference.ts'
import type { Services } from '../services.ts'
import { type Contract, methodsOf } from './contract.ts'
import { securityHeaders } from './headers.ts'
import { ClientGone, Problem, toProblem } from './problem.ts'
import { discardPacket, holdOpen, isDiscarding } from './unread-bodies.ts'

/** Every failure becomes `application/problem+json`, a count and, where it is the server's fault, a line in the log. */
export function addErrorHandling(http: FastifyInstance, services: Services): void {
  http.addHook('onRequest', async (request, reply) => {
    refuseAmbiguous(request)
    // Before the body is read: Fastify would read and parse one for a route that is not there.
    if (request.is404) refuseUnknown(request, reply, services.contract)
  })
  // Swagger UI's files that are not there.
  http.setNotFoundHandler((request, reply) => refuseUnknown(request, reply, services.contract))
  http.setErrorHandler((error, request, reply) => {
    // Fastify would close the connection of a client that is still sending; what is left of its body is read instead.
    if (reply.hasHeader('connection') && !services.draining) {
      reply.header('connection', reply.raw.shouldKeepAlive ? 'keep-alive' : 'close')
    }
    if (error instanceof ClientGone) {
      services.metrics.error('client-gone')
      return reply.code(499).send()
    }
    const problem = toProblem(error)
    services.metrics.error(problem.kind)
    // Not the detail: it may quote what the client sent.
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

/** Refuses what Node lets pass and RFC 9112 does not: more than one Host, and transfer codings besides chunked. */
function refuseAmbiguous({ raw }: FastifyRequest): void {
  if (raw.rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host').length > 1) {
    throw new Problem('malformed', 'the request has more than one Host')
  }
  const coding = raw.headers['transfer-encoding'] ?? 'chunked'
  if (coding.toLowerCase() !== 'chunked') {
    throw new Problem('unsupported-type', `bodies transferred as ${coding} are not taken`)
  }
}

/** Says which methods a path takes, or that it is none. */
function refuseUnknown(request: FastifyRequest, reply: FastifyReply, contract: Contract): never {
  const path = request.url.split(/[?#]/, 1)[0] as string
  const methods = methodsOf(contract, path)
  if (methods.length === 0) throw new Problem('not-found', `there is no ${request.method} ${request.url}`)
  reply.header('allow', methods.join(', '))
  throw new Problem('method-not-allowed', `${path} takes ${methods.join(' and ')}, not ${request.method}`)
}

/** Answers what Fastify refuses before it has a route, and so before any hook: a URL that cannot be decoded. */
export function answerFrameworkError(error: Error, request: FastifyRequest, reply: FastifyReply): void {
  const problem = new Problem('malformed', error.message)
  reply
    .headers(securityHeaders)
    .header('x-request-id', request.id)
    .code(problem.status)
    .type('application/problem+json')
  reply.send(holdOpen(request, reply, JSON.stringify(problem.body(request.id))))
}

/** Answers bytes that are no HTTP, for which there is no request yet. */
export function answerBrokenRequest(error: ConnectionError, socket: Socket): void {
  // Fastify's type has the packet as JSON would write it.
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
      return new Problem('malformed', `this is no HTTP request: ${error.message}`)
  }
}
