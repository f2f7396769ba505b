import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { Problem } from './problem.ts'

/** Lets a request pass that carries the key, as bearer token or as `x-api-key`. */
export function requireKey(key: string): (request: FastifyRequest) => Promise<void> {
  const expected = digest(key)
  return async ({ headers }) => {
    const given = headers['x-api-key'] ?? /^bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1]
    if (typeof given !== 'string' || !timingSafeEqual(digest(given), expected)) {
      throw new Problem('unauthorized', 'send the API key as `Authorization: Bearer KEY` or as `x-api-key: KEY`')
    }
  }
}

/** Refuses a body of a type that the contract does not name for the operation, before it is read. */
export function requireMediaType(takes: string[]): (request: FastifyRequest) => Promise<void> {
  return async ({ headers }) => {
    const type = headers['content-type']?.split(';')[0]?.trim().toLowerCase()
    const encoding = headers['content-encoding'] ?? 'identity'
    if (encoding !== 'identity') throw new Problem('unsupported-type', `bodies encoded as ${encoding} are not taken`)
    if (type === undefined || !takes.includes(type)) {
      const found = type === undefined ? 'the request has no Content-Type' : `${type} is not taken here`
      throw new Problem('unsupported-type', `${found}; ${takes.join(', ')} are`)
    }
  }
}

// Of one length, which timingSafeEqual demands.
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
