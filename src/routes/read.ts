import type { RouteHandlerMethod } from 'fastify'
import pkg from '../../package.json' with { type: 'json' }
import type { components } from '../http/openapi.d.ts'
import { Problem } from '../http/problem.ts'
import type { Services } from '../services.ts'

type Health = components['schemas']['Health']

/** `GET /openapi.yaml`. */
export function contract({ contract }: Services): RouteHandlerMethod {
  return async (_, reply) => reply.type('application/yaml').send(contract.text)
}

/** `GET /info`. */
export function info({ config, inference }: Services): RouteHandlerMethod {
  const { name, modelDigest: model, bundleDigest: bundle, kind, prefixes, source } = inference.info
  const { imageSize, image, length, stages, codebook } = inference.info
  const { provider, providerReason, engines, threads, maxBatch } = inference.info
  const answer = {
    ...{ name, model, bundle, kind, prefixes, imageSize, image, length, stages, codebook },
    ...(source && { source }),
    ...{ provider, providerReason, engines, threads, maxBatch },
    limits: {
      images: config.maxImages,
      queue: config.queueLimit,
      bodyBytes: config.bodyLimit,
      jsonBodyBytes: config.jsonBodyLimit,
      pixels: config.maxPixels,
      requestSeconds: config.requestTimeout,
    },
    version: pkg.version,
  } satisfies components['schemas']['Info']
  return async () => answer
}

/** `GET /codebook`: the bundle's file, unchanged. */
export function codebook({ inference }: Services): RouteHandlerMethod {
  return async (_, reply) => reply.type('application/x-npy').send(inference.codebookFile)
}

/** `GET /health/live`. */
export const live: RouteHandlerMethod = async () => ({ status: 'live' }) satisfies Health

/** `GET /health/ready`. */
export function ready(services: Services): RouteHandlerMethod {
  return async () => {
    if (services.draining) throw new Problem('draining', 'the server is shutting down')
    if (!services.inference.ready) throw new Problem('draining', 'no engine is ready')
    return { status: 'ready' } satisfies Health
  }
}

/** `GET /metrics`. */
export function metrics({ metrics: { registry } }: Services): RouteHandlerMethod {
  return async (_, reply) => reply.type(registry.contentType).send(await registry.metrics())
}
