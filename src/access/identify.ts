import type { FastifyInstance, onRequestAsyncHookHandler } from 'fastify'
import { Problem } from '../http/problem.ts'
import type { ApiKeys } from './api-keys.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The holder of the request's API key, if the key is valid. */
    keyHolder: string | undefined
  }
}

/** Records the key holder of every request. */
export function identifyKeyHolders(http: FastifyInstance, apiKeys: ApiKeys): void {
  http.decorateRequest('keyHolder', undefined)
  http.addHook('onRequest', async (request) => {
    request.keyHolder = apiKeys.holderOf(request.headers)
  })
}

/** Refuses a request without a valid key. */
export const requireKey: onRequestAsyncHookHandler = async ({ keyHolder }) => {
  if (keyHolder === undefined) {
    throw new Problem('unauthorized', 'send the API key as `Authorization: Bearer KEY` or as `x-api-key: KEY`')
  }
}
