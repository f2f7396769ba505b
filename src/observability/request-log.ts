import type { FastifyInstance } from 'fastify'
import { type Contract, operationsOf } from '../http/contract.ts'
import type { Metrics } from './metrics.ts'

/** Counts and logs every request: who asked for what, and the outcome, but nothing of its content. */
export function logRequests(
  http: FastifyInstance,
  { contract, metrics }: { contract: Contract; metrics: Metrics },
): void {
  const loggable = urlFilter(contract)
  http.addHook('onResponse', async (request, reply) => {
    const { method, routeOptions, keyHolder, traceId, log, admission } = request
    const milliseconds = reply.elapsedTime
    metrics.request(routeOptions.url ?? 'none', method, reply.statusCode, milliseconds / 1000)
    log.info(
      {
        ...{ method, url: loggable(request.url), status: reply.statusCode, milliseconds: Math.round(milliseconds) },
        ...{ keyHolder, traceId, images: admission?.images },
      },
      'answered',
    )
    if (admission !== undefined) log.debug({ timings: admission.timings }, 'took')
  })
}

/** Keeps only the query parameters in the contract: an API key sent in a query must not be logged. */
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
