import type { onRequestAsyncHookHandler, RouteHandlerMethod, RouteShorthandOptions } from 'fastify'
import { requireKey } from '../access/identify.ts'
import type { Guardable } from '../config.ts'
import { admissionHooks } from '../http/admission.ts'
import { type OperationId, rulesOf } from '../http/contract.ts'
import { requireMediaType } from '../http/media-types.ts'
import { readParts } from '../http/multipart.ts'
import type { Services } from '../services.ts'
import { decode } from './decode.ts'
import { encode } from './encode.ts'
import type { Playground } from './playground.ts'
import { codebook, contract, info, live, metrics, ready } from './read.ts'

type Route = RouteShorthandOptions & { handler: RouteHandlerMethod }

const guardable: Partial<Record<OperationId, Guardable>> = { live: 'health', ready: 'health', metrics: 'metrics' }

/**
 * A handler for every operation of the contract except /docs, which Swagger UI serves.
 *
 * @param limits hooks that limit how often the model's operations are called; health and metrics have no limit
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
