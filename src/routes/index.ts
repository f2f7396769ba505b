import type { onRequestAsyncHookHandler, RouteHandlerMethod, RouteShorthandOptions } from 'fastify'
import { requireKey, requireMediaType } from '../access/access.ts'
import type { Guardable } from '../config.ts'
import { admissionHooks } from '../http/admission.ts'
import { readParts } from '../http/bodies.ts'
import { type OperationId, rulesOf } from '../http/contract.ts'
import type { Services } from '../services.ts'
import { codebook } from './codebook.ts'
import { contract } from './contract.ts'
import { decode } from './decode.ts'
import { encode } from './encode.ts'
import { live, ready } from './health.ts'
import { info } from './info.ts'
import { metrics } from './metrics.ts'
import type { Playground } from './playground.ts'

type Route = RouteShorthandOptions & { handler: RouteHandlerMethod }

const guardable: Partial<Record<OperationId, Guardable>> = { live: 'health', ready: 'health', metrics: 'metrics' }

/**
 * A handler for every operation of the contract; /docs is Swagger UI's own.
 *
 * @param limits hooks that bound how often the model's operations are called; health and metrics are not bounded
 */
export function routes(
  services: Services,
  playground: Playground,
  limits: onRequestAsyncHookHandler[],
): Record<Exclude<OperationId, 'docs'>, Route> {
  const { contract: openapi, config, apiKeys } = services

  const accessHooks = (id: OperationId) => {
    const { takes, guarded } = rulesOf(openapi, id)
    const name = guardable[id]
    const closed = apiKeys.needed && (name === undefined ? guarded : config.guard.includes(name))
    return [
      ...(guarded && name === undefined ? limits : []),
      ...(closed ? [requireKey] : []),
      ...(takes.length > 0 ? [requireMediaType(takes)] : []),
    ]
  }
  const reading = (id: OperationId, handler: RouteHandlerMethod): Route => ({ handler, onRequest: accessHooks(id) })
  const working = (id: OperationId, handler: RouteHandlerMethod): Route => {
    const { onRequest, ...hooks } = admissionHooks(services)
    return { ...hooks, handler, onRequest: [...accessHooks(id), onRequest] }
  }

  return {
    encode: { ...working('encode', encode(services)), preValidation: readParts },
    decode: working('decode', decode(services)),
    info: reading('info', info(services)),
    codebook: reading('codebook', codebook(services)),
    live: reading('live', live),
    ready: reading('ready', ready(services)),
    metrics: reading('metrics', metrics(services)),
    contract: reading('contract', contract(services)),
    home: reading('home', playground.home),
  }
}
