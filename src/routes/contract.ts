import type { RouteHandlerMethod } from 'fastify'
import type { Services } from '../services.ts'

/** `GET /openapi.yaml`. */
export function contract({ contract }: Services): RouteHandlerMethod {
  return async (_, reply) => reply.type('application/yaml').send(contract.text)
}
