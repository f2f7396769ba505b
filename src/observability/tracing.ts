import { defaultTextMapGetter, diag, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import { BatchSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace'
import type { FastifyInstance } from 'fastify'
import pkg from '../../package.json' with { type: 'json' }
import type { Inference } from '../inference/inference.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set when requests are traced. */
    traceId?: string
  }
}

const traced = ['/encode', '/decode']

/**
 * Sends a trace of every encode and decode to an OpenTelemetry collector: a span for the request, which continues the
 * client's trace if it sends a `traceparent`, and a child span for each step. Loading this module loads OpenTelemetry.
 *
 * @param endpoint the collector's base URL, as in http://localhost:4318
 */
export function traceRequests(http: FastifyInstance, { inference }: { inference: Inference }, endpoint: string): void {
  // A collector that does not answer must not delay the shutdown for longer than five seconds.
  const exporter = new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces`, timeoutMillis: 5000 })
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ 'service.name': pkg.name, 'service.version': pkg.version }).merge(
      detectResources({ detectors: [envDetector] }),
    ),
    spanProcessors: [new BatchSpanProcessor({ exporter })],
  })
  const tracer = provider.getTracer(pkg.name, pkg.version)
  const propagator = new W3CTraceContextPropagator()
  const warn = (message: string) => http.log.warn({ reason: message }, 'traces cannot be sent')
  const quiet = () => {}
  diag.setLogger({ error: warn, warn, info: quiet, debug: quiet, verbose: quiet }, { suppressOverrideMessage: true })

  const received = new WeakMap<object, number>()
  http.addHook('onRequest', async (request, reply) => {
    const { url: route } = request.routeOptions
    if (route === undefined || !traced.includes(route)) return
    const start = performance.now()
    const span = tracer.startSpan(
      `${request.method} ${route}`,
      {
        kind: SpanKind.SERVER,
        startTime: epoch(start),
        attributes: {
          'http.request.method': request.method,
          'http.route': route,
          'nativetok.request_id': request.id,
          'nativetok.model': inference.info.modelDigest,
        },
      },
      propagator.extract(ROOT_CONTEXT, request.headers, defaultTextMapGetter),
    )
    request.traceId = span.spanContext().traceId
    const within = trace.setSpan(ROOT_CONTEXT, span)
    const step = (name: string, from: number, to: number, items?: number) => {
      const attributes = items === undefined ? {} : { 'nativetok.items': items }
      tracer.startSpan(name, { startTime: epoch(from), attributes }, within).end(epoch(to))
    }

    reply.raw.once('close', () => {
      const end = performance.now()
      const { admission, keyHolder } = request
      if (admission !== undefined) {
        const steps = Object.entries(admission.periods)
        step('receive', start, received.get(request) ?? end)
        for (const [name, { start, end, items }] of steps) step(name, start, end, items)
        if (steps.length > 0) step('reply', Math.max(...steps.map(([, { end }]) => end)), end)
        span.setAttribute('nativetok.images', admission.images)
      }
      if (keyHolder !== undefined) span.setAttribute('nativetok.key_holder', keyHolder)
      const gone = !reply.raw.writableFinished
      if (!gone) span.setAttribute('http.response.status_code', reply.statusCode)
      if (gone || reply.statusCode >= 500) {
        span.setAttribute('error.type', gone ? 'client-gone' : String(reply.statusCode))
        span.setStatus({ code: SpanStatusCode.ERROR })
      }
      span.end(epoch(end))
    })
  })
  http.addHook('preHandler', async (request) => {
    if (request.traceId !== undefined) received.set(request, performance.now())
  })
  http.addHook('onClose', () => provider.shutdown().catch((error: Error) => warn(error.message)))
}

/** Converts a `performance.now()` value to milliseconds since 1970. */
function epoch(now: number): number {
  return performance.timeOrigin + now
}
