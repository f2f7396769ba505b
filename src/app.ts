import { randomUUID } from 'node:crypto'
import accepts from '@fastify/accepts'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { allowOrigins, identifyClients, limitRate } from './access/access.ts'
import { ApiKeys } from './access/api-keys.ts'
import type { Config } from './config.ts'
import { InflightBytes } from './http/admission.ts'
import { addBodyParsers } from './http/bodies.ts'
import { describeSchemaErrors, operationsOf, readContract, validatorCompiler } from './http/contract.ts'
import { addErrorHandling, answerBrokenRequest, answerFrameworkError } from './http/errors.ts'
import { addSecurityHeaders } from './http/headers.ts'
import { contractFor } from './http/served-contract.ts'
import type { Inference } from './inference/inference.ts'
import type { Metrics } from './observability/metrics.ts'
import { logRequests } from './observability/request-log.ts'
import { routes } from './routes/index.ts'
import type { Services } from './services.ts'

export interface App {
  http: FastifyInstance
  services: Services
}

/**
 * The service on one Fastify instance, not listening yet.
 *
 * @throws Error with a sentence on a file of API keys that cannot be used
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

  const http: FastifyInstance = Fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    genReqId: (request) => {
      const given = request.headers['x-request-id']
      return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID()
    },
    // A draining server still answers on connections that it has.
    return503OnClosing: false,
    // Bodies are counted and bounded as they stream; this only ends clients that never finish sending.
    requestTimeout: (config.requestTimeout * 2 + 5) * 1000,
    http: { headersTimeout: config.requestTimeout * 1000, connectionsCheckingInterval: 1000 },
    bodyLimit: config.bodyLimit,
    trustProxy: config.trustProxy ?? false,
    clientErrorHandler: answerBrokenRequest,
    frameworkErrors: answerFrameworkError,
  })
  http.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
  http.addHook('onSend', async (_, reply) => {
    // A connection that is kept would hold up the end until it times out.
    if (services.draining) reply.header('connection', 'close')
  })
  http.addHook('onClose', async () => apiKeys.close())
  addSecurityHeaders(http)
  identifyClients(http, apiKeys)
  logRequests(http, services)
  if (config.otlpEndpoint !== undefined) {
    // Only then: OpenTelemetry is much to load.
    const { traceRequests } = await import('./observability/tracing.ts')
    traceRequests(http, services, config.otlpEndpoint)
  }
  if (config.corsOrigins !== undefined) await allowOrigins(http, config.corsOrigins)
  addErrorHandling(http, services)
  await addBodyParsers(http)
  http.setValidatorCompiler(validatorCompiler(contract))
  http.setSchemaErrorFormatter(describeSchemaErrors)
  // The contract's schemas check answers in the tests; here they would only coerce them in silence.
  http.setSerializerCompiler(() => JSON.stringify)
  await http.register(accepts)
  await http.register(swagger, { mode: 'static', specification: { document: structuredClone(contract.document) } })
  await http.register(swaggerUi, {
    routePrefix: '/docs',
    theme: { title: 'NativeTok' },
    uiConfig: { layout: 'BaseLayout' },
  })
  const limits = config.rateLimit === undefined ? [] : [await limitRate(http, config.rateLimit)]
  const handlers = routes(services, limits)
  for (const { id, ...route } of operationsOf(contract)) {
    if (id !== 'docs') http.route({ ...route, ...handlers[id] })
  }
  return { http, services }
}
