import type { RouteHandlerMethod } from 'fastify'
import type { Services } from '../services.ts'

/** `GET /codebook`: the bundle's file as it is. */
export function codebook({ inference }: Services): RouteHandlerMethod {
  return async (_, reply) => reply.type('application/x-npy').send(inference.codebookFile)
}
