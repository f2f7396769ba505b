import { randomUUID } from 'node:crypto'
import accepts from '@fastify/accepts'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { InflightBytes } from './admission.ts'
import { addBodyParsers } from './bodies.ts'
import type { Config } from './config.ts'
import { describeSchemaErrors, operationsOf, readContract, validatorCompiler } from './contract.ts'
import { addErrorHandling, answerBrokenRequest, answerFrameworkError } from './errors.ts'
import type { Inference } from './inference/index.ts'
import type { Metrics } from './metrics.ts'
import { routes } from './routes/index.ts'
import type { Services } from './services.ts'

export interface App {
  http: FastifyInstance
  services: Services
}

/** The service on one Fastify instance, not listening yet. */
export async function buildApp(options: {
  config: Config
  inference: Inference
  log: FastifyBaseLogger
  metrics: Metrics
}): Promise<App> {
  const { config, inference, log, metrics } = options
  const contract = readContract()
  const inflight = new InflightBytes(config.inflightLimit)
  const services: Services = { config, inference, contract, metrics, inflight, draining: false }

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
    bodyLimit: config.bodyLimit,
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
  http.addHook('onResponse', async (request, reply) => {
    const { method, url, routeOptions, log } = request
    const milliseconds = reply.elapsedTime
    metrics.request(routeOptions.url ?? 'none', method, reply.statusCode, milliseconds / 1000)
    const images = request.admission?.images
    log.info({ method, url, status: reply.statusCode, milliseconds: Math.round(milliseconds), images }, 'answered')
  })
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
  const handlers = routes(services)
  for (const { id, ...route } of operationsOf(contract)) {
    if (id !== 'docs') http.route({ ...route, ...handlers[id] })
  }
  return { http, services }
}
