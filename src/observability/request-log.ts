import type { FastifyInstance } from 'fastify'
import { type Contract, operationsOf } from '../http/contract.ts'
import type { Services } from '../services.ts'

/** Counts every request and logs a line on it: who asked for what, and what came of it, but nothing of what it carried. */
export function logRequests(http: FastifyInstance, { contract, metrics }: Services): void {
  const loggable = urlFilter(contract)
  http.addHook('onResponse', async (request, reply) => {
    const { method, routeOptions, client, traceId, log, admission } = request
    const milliseconds = reply.elapsedTime
    metrics.request(routeOptions.url ?? 'none', method, reply.statusCode, milliseconds / 1000)
    log.info(
      {
        ...{ method, url: loggable(request.url), status: reply.statusCode, milliseconds: Math.round(milliseconds) },
        ...{ client, traceId, images: admission?.images },
      },
      'answered',
    )
    if (admission !== undefined) log.debug({ timings: admission.timings }, 'took')
  })
}

/** Leaves of a URL's query what the contract knows: keys that somebody sends there do not belong into a log. */
function urlFilter(contract: Contract): (url: string) => string {
  const known = new Set(
    operationsOf(contract).flatMap(({ schema }) =>
      Object.keys((schema.querystring as { properties: object }).properties),
    ),
  )
  return (url) => {
    const [path = '', query] = url.split('?', 2)
    const kept = [...new URLSearchParams(query)].filter(([name]) => known.has(name))
    return kept.length === 0 ? path : `${path}?${new URLSearchParams(kept)}`
  }
}
