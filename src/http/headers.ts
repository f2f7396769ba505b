import type { FastifyInstance } from 'fastify'

/** On every answer: no page may guess its type, frame it, or learn of it from a link. */
export const securityHeaders = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
}

// What the playground and Swagger UI need: their own files, icons drawn inside a style sheet, and images that were answered.
const pagePolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** Puts the security headers on every answer that a route or its absence gives. */
export function addSecurityHeaders(http: FastifyInstance): void {
  http.addHook('onRequest', async (request, reply) => {
    reply.headers(securityHeaders)
    const { url } = request.routeOptions
    if (url === '/' || url?.startsWith('/docs')) reply.header('content-security-policy', pagePolicy)
  })
}
