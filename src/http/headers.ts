import type { FastifyInstance } from 'fastify'

/** Sent with every answer: browsers must not guess its type, show it in a frame, or send its URL as a referrer. */
export const securityHeaders = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
}

// What the playground and Swagger UI need: their own files, icons inside a style sheet, and images in answers.
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

/** Adds the security headers to every answer. */
export function addSecurityHeaders(http: FastifyInstance): void {
  http.addHook('onRequest', async (request, reply) => {
    reply.headers(securityHeaders)
    const { url } = request.routeOptions
    if (url === '/' || url?.startsWith('/docs')) reply.header('content-security-policy', pagePolicy)
  })
}
