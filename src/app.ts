import { randomUUID } from 'node:crypto'
import accepts from '@fastify/accepts'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { ApiKeys } from './access/api-keys.ts'
import { allowOrigins } from './access/cors.ts'
import { identifyKeyHolders } from './access/identify.ts'
import { limitRate } from './access/rate-limit.ts'
import type { Config } from './config.ts'
import { InflightBytes } from './http/admission.ts'
import { addBodyParsers } from './http/bodies.ts'
import { boundClosing, closeConnections } from './http/connections.ts'
import { describeSchemaErrors, operationsOf, readContract, validatorCompiler } from './http/contract.ts'
import { addErrorHandling, answerBrokenRequest, answerFrameworkError } from './http/errors.ts'
import { addSecurityHeaders } from './http/headers.ts'
import { contractFor } from './http/served-contract.ts'
import { readUnreadBodies } from './http/unread-bodies.ts'
import type { Inference } from './inference/inference.ts'
import type { Metrics } from './observability/metrics.ts'
import { logRequests } from './observability/request-log.ts'
import { routes } from './routes/index.ts'
import { Playground } from './routes/playground.ts'
import type { Services } from './services.ts'

export interface App {
  http: FastifyInstance
  services: Services
}

/**
 * The service on one Fastify instance, not listening yet.
 *
 * @throws Error with a sentence about a file of API keys that cannot be used
 */
export async function buildApp(options: {
  config: Config
  inference: Inference
  log: FastifyBaseLogger
  metrics: Metrics
}): Promise<App> {
  const { config, inference, log, metrics } = options
  const contract = contractFor(readContract(), inference.info)
  const inflight = new InflightBytes(config.inflightLimit)
  const apiKeys = new ApiKeys(config, log)
  const services: Services = { config, apiKeys, inference, contract, metrics, inflight, draining: false }
  metrics.watch(services)

  // Admission limits bodies as they arrive; this only ends clients that never finish sending.
  const requestTimeout = (config.requestTimeout * 2 + 5) * 1000
  const http: FastifyInstance = Fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    genReqId: (request) => {
      const given = request.headers['x-request-id']
      return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID()
    },
    // A draining server still answers on open connections.
    return503OnClosing: false,
    requestTimeout,
    // Fastify sets its own only later; Node's default of 300 s would refuse a longer time for headers.
    http: { requestTimeout, headersTimeout: config.requestTimeout * 1000, connectionsCheckingInterval: 1000 },
    bodyLimit: config.bodyLimit,
    trustProxy: config.trustProxy ?? false,
    clientErrorHandler: answerBrokenRequest,
    frameworkErrors: answerFrameworkError,
  })
  http.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
  closeConnections(http, () => services.draining)
  // The deadline of a request, plus the time to read on after a refusal.
  boundClosing(http, config.requestTimeout + 5)
  http.addHook('onClose', async () => apiKeys.close())
  readUnreadBodies(http)
  addSecurityHeaders(http)
  identifyKeyHolders(http, apiKeys)
  logRequests(http, services)
  if (config.otlpEndpoint !== undefined) {
    // Loaded only when needed: OpenTelemetry is large.
    const { traceRequests } = await import('./observability/tracing.ts')
    traceRequests(http, services, config.otlpEndpoint)
  }
  if (config.corsOrigins !== undefined) await allowOrigins(http, config.corsOrigins)
  addErrorHandling(http, { contract, draining: () => services.draining, onError: (kind) => metrics.error(kind) })
  await addBodyParsers(http)
  http.setValidatorCompiler(validatorCompiler(contract))
  http.setSchemaErrorFormatter(describeSchemaErrors)
  // The tests check answers against the contract; here its schemas would only coerce them silently.
  http.setSerializerCompiler(() => JSON.stringify)
  await http.register(accepts)
  await http.register(swagger, { mode: 'static', specification: { document: structuredClone(contract.document) } })
  const playground = new Playground()
  await playground.serve(http)
  await http.register(swaggerUi, {
    routePrefix: '/docs',
    theme: playground.docsTheme(),
    uiConfig: { layout: 'BaseLayout' },
  })
  const limits = config.rateLimit === undefined ? [] : [await limitRate(http, config.rateLimit)]
  const handlers = routes(services, playground, limits)
  for (const { id, ...route } of operationsOf(contract)) {
    if (id !== 'docs') http.route({ ...route, ...handlers[id] })
  }
  return { http, services }
}
