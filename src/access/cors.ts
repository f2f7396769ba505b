import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'

/** Lets pages of other origins call from a browser and read all of the answer. Preflights are answered without a key. */
export async function allowOrigins(http: FastifyInstance, origins: string[]): Promise<void> {
  await http.register(cors, {
    origin: origins,
    methods: ['GET', 'HEAD', 'POST'],
    allowedHeaders: [
      'Accept',
      'Authorization',
      'Content-Type',
      'Traceparent',
      'Tracestate',
      'X-Api-Key',
      'X-Request-Id',
    ],
    exposedHeaders: [
      ...['Retry-After', 'Server-Timing', 'WWW-Authenticate', 'X-Model', 'X-Request-Id'],
      ...['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset'],
    ],
    maxAge: 600,
    // It would refuse an OPTIONS request that is not a preflight, in plain text.
    strictPreflight: false,
  })
}
