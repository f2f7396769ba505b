import type { FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import { Problem } from './problem.ts'

/** The media type of the body, without its parameters. */
export function mediaTypeOf({ headers }: Pick<FastifyRequest, 'headers'>): string | undefined {
  return headers['content-type']?.split(';')[0]?.trim().toLowerCase()
}

/**
 * Refuses a body of a type that the contract does not name for the operation, before it is read.
 *
 * @param takes media types, among them ranges such as `image/*`
 */
export function requireMediaType(takes: string[]): onRequestAsyncHookHandler {
  return async ({ headers }) => {
    const encoding = headers['content-encoding']?.trim().toLowerCase() || 'identity'
    if (encoding !== 'identity') {
      throw new Problem('unsupported-type', `bodies must not be encoded; this one is ${encoding}`)
    }
    // RFC 9110, 8.3: without a type a body may be taken for bytes of any kind.
    if (takes.includes('application/octet-stream')) headers['content-type'] ||= 'application/octet-stream'
    const type = mediaTypeOf({ headers })
    // Images whose format the content tells. SVG is not one of them, and refused by name.
    const isImage = type?.startsWith('image/') && type !== 'image/svg+xml'
    if (type !== undefined && (takes.includes(type) || (isImage && takes.includes('image/*')))) return
    const found = type === undefined ? 'the request has no Content-Type' : `${type} is not taken here`
    throw new Problem('unsupported-type', `${found}; ${takes.join(', ')} are`)
  }
}
