import type { FastifyRequest } from 'fastify'
import { Problem } from './problem.ts'

/**
 * Chooses the media type of the answer: the offered one that the client prefers, or the first if it has no preference.
 *
 * @throws Problem 406
 */
export function negotiate<T extends string>(request: FastifyRequest, offered: T[]): T {
  // A range with parameters matches only a type that has the same (RFC 9110, 12.5.1), so they are compared in full.
  const full = offered.map((type) => (type === 'application/json' ? `${type}; charset=utf-8` : type))
  const type = request.accepts().type(full)
  if (typeof type !== 'string') {
    throw new Problem('not-acceptable', `Accept must allow ${offered.join(' or ')}, not only ${request.headers.accept}`)
  }
  return offered[full.indexOf(type)] as T
}
