import cors from '@fastify/cors'
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, onRequestAsyncHookHandler } from 'fastify'
import { Problem } from '../http/problem.ts'
import type { ApiKeys } from './api-keys.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose API key the request carries, where it carries a valid one. */
    client: string | undefined
  }
}

/** Notes on every request whose key it carries. */
export function identifyClients(http: FastifyInstance, apiKeys: ApiKeys): void {
  http.decorateRequest('client', undefined)
  http.addHook('onRequest', async (request) => {
    request.client = apiKeys.clientOf(request.headers)
  })
}

/** Lets a request pass that carries a valid key. */
export const requireKey: onRequestAsyncHookHandler = async ({ client }) => {
  if (client === undefined) {
    throw new Problem('unauthorized', 'send the API key as `Authorization: Bearer KEY` or as `x-api-key: KEY`')
  }
}

/**
 * Makes the hook that lets so many requests of a client pass in a minute. Who sends no valid key is told by the address,
 * so that guessing at keys is slow too.
 */
export async function limitRate(http: FastifyInstance, perMinute: number): Promise<onRequestAsyncHookHandler> {
  await http.register(rateLimit, {
    global: false,
    max: perMinute,
    timeWindow: '1 minute',
    // `RateLimit-*`, as the IETF draft has them.
    enableDraftSpec: true,
    errorResponseBuilder: (_, { after }) =>
      new Problem('rate-limited', `more than ${perMinute} requests a minute; try again in ${after}`),
  })
  const byAddress = http.rateLimit({})
  const byClient = http.rateLimit({ keyGenerator: ({ client }) => client as string })
  return async function (request, reply) {
    await (request.client === undefined ? byAddress : byClient).call(this, request, reply)
  }
}

/** Lets pages of other origins call from a browser and read all of the answer. Preflights are answered without a key. */
export async function allowOrigins(http: FastifyInstance, origins: string[]): Promise<void> {
  await http.register(cors, {
    origin: origins,
    methods: ['GET', 'HEAD', 'POST'],
    allowedHeaders: [
      'Accept',
      'Authorization',
      'Content-Type',
      'Traceparent',
      'Tracestate',
      'X-Api-Key',
      'X-Request-Id',
    ],
    exposedHeaders: [
      ...['Retry-After', 'Server-Timing', 'WWW-Authenticate', 'X-Model', 'X-Request-Id'],
      ...['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset'],
    ],
    maxAge: 600,
    // It would refuse an OPTIONS that is no preflight, in plain text.
    strictPreflight: false,
  })
}
