import type { RouteHandlerMethod } from 'fastify'
import type { Services } from '../services.ts'

/** `GET /metrics`. */
export function metrics({ metrics: { registry } }: Services): RouteHandlerMethod {
  return async (_, reply) => reply.type(registry.contentType).send(await registry.metrics())
}
