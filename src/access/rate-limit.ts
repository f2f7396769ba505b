import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, onRequestAsyncHookHandler } from 'fastify'
import { Problem } from '../http/problem.ts'

/**
 * Makes the hook that limits how many requests a key holder may send per minute. Requests without a valid key count for
 * their address, so that guessing keys is slow too.
 */
export async function limitRate(http: FastifyInstance, perMinute: number): Promise<onRequestAsyncHookHandler> {
  await http.register(rateLimit, {
    global: false,
    max: perMinute,
    timeWindow: '1 minute',
    // `RateLimit-*` headers, as in the IETF draft.
    enableDraftSpec: true,
    errorResponseBuilder: (_, { after }) =>
      new Problem('rate-limited', `more than ${perMinute} requests per minute; try again in ${after}`),
  })
  const byAddress = http.rateLimit({})
  const byKeyHolder = http.rateLimit({ keyGenerator: ({ keyHolder }) => keyHolder as string })
  return async function (request, reply) {
    await (request.keyHolder === undefined ? byAddress : byKeyHolder).call(this, request, reply)
  }
}
