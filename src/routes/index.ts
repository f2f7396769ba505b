import type { RouteHandlerMethod, RouteShorthandOptions } from 'fastify'
import { requireKey, requireMediaType } from '../access.ts'
import { admissionHooks } from '../admission.ts'
import { readParts } from '../bodies.ts'
import { type OperationId, rulesOf } from '../contract.ts'
import type { Services } from '../services.ts'
import { codebook } from './codebook.ts'
import { contract, home } from './contract.ts'
import { decode } from './decode.ts'
import { encode } from './encode.ts'
import { live, ready } from './health.ts'
import { info } from './info.ts'
import { metrics } from './metrics.ts'

type Route = RouteShorthandOptions & { handler: RouteHandlerMethod }

/** A handler for every operation of the contract; /docs is Swagger UI's own. */
export function routes(services: Services): Record<Exclude<OperationId, 'docs'>, Route> {
  const { contract: openapi, config } = services

  const keyHooks = (id: OperationId) =>
    rulesOf(openapi, id).guarded && config.apiKey !== undefined ? [requireKey(config.apiKey)] : []
  const guarded = (id: OperationId, handler: RouteHandlerMethod): Route => ({ handler, onRequest: keyHooks(id) })
  const working = (id: OperationId, handler: RouteHandlerMethod): Route => {
    const { onRequest, ...hooks } = admissionHooks(services)
    const before = [...keyHooks(id), requireMediaType(rulesOf(openapi, id).takes)]
    return { ...hooks, handler, onRequest: [...before, onRequest] }
  }

  return {
    encode: { ...working('encode', encode(services)), preValidation: readParts },
    decode: working('decode', decode(services)),
    info: guarded('info', info(services)),
    codebook: guarded('codebook', codebook(services)),
    live: guarded('live', live),
    ready: guarded('ready', ready(services)),
    metrics: guarded('metrics', metrics(services)),
    contract: guarded('contract', contract(services)),
    home: guarded('home', home),
  }
}
