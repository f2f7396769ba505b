import type { RouteHandlerMethod } from 'fastify'
import pkg from '../../package.json' with { type: 'json' }
import type { components } from '../http/openapi.d.ts'
import type { Services } from '../services.ts'

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
