import { randomUUID } from 'node:crypto'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { ClientGone, Problem, toProblem } from './problem.ts'
import type { Services } from './services.ts'

/** Every failure becomes `application/problem+json`, a count and, where it is the server's fault, a line in the log. */
export function addErrorHandling(http: FastifyInstance, services: Services): void {
  http.setNotFoundHandler((request) => {
    throw new Problem('not-found', `there is no ${request.method} ${request.url}`)
  })
  http.setErrorHandler((error, request, reply) => {
    // Fastify would close the connection under a client that is still sending; admission reads the rest instead.
    if (!services.draining) reply.removeHeader('connection')
    if (error instanceof ClientGone) {
      services.metrics.error('client-gone')
      return reply.code(499).send()
    }
    const problem = toProblem(error)
    services.metrics.error(problem.kind)
    if (problem.status >= 500 && problem.status !== 503)
      request.log.error({ err: problem.cause ?? error }, problem.message)
    if (problem.status === 503) reply.header('retry-after', '1')
    if (problem.status === 401) reply.header('www-authenticate', 'Bearer')
    return reply
      .code(problem.status)
      .type('application/problem+json')
      .send(JSON.stringify(problem.body(request.id)))
  })
}

/** Answers what Fastify refuses before it has a route, and so before any hook: a URL that cannot be decoded. */
export function answerFrameworkError(error: Error, request: FastifyRequest, reply: FastifyReply): void {
  const problem = new Problem('malformed', error.message)
  reply.header('x-request-id', request.id).code(problem.status).type('application/problem+json')
  reply.send(JSON.stringify(problem.body(request.id)))
}

/** Answers bytes that are no HTTP, for which there is no request yet. */
export function answerBrokenRequest(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
  const id = randomUUID()
  const timedOut = error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
  const problem = timedOut
    ? new Problem('deadline', 'the request did not arrive in time')
    : new Problem('malformed', `this is no HTTP request: ${error.message}`)
  const body = JSON.stringify(problem.body(id))
  socket.end(
    [
      `HTTP/1.1 ${problem.status} ${timedOut ? 'Gateway Timeout' : 'Bad Request'}`,
      'Content-Type: application/problem+json',
      `Content-Length: ${Buffer.byteLength(body)}`,
      `X-Request-Id: ${id}`,
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  )
}
