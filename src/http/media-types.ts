import type { FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import { Problem } from './problem.ts'

/** The media type of the body, without its parameters. */
export function mediaTypeOf({ headers }: Pick<FastifyRequest, 'headers'>): string | undefined {
  return headers['content-type']?.split(';')[0]?.trim().toLowerCase()
}

/**
 * Refuses a body of a media type that the operation does not accept, before it is read.
 *
 * @param takes media types, among them ranges such as `image/*`
 */
export function requireMediaType(takes: string[]): onRequestAsyncHookHandler {
  return async ({ headers }) => {
    const encoding = headers['content-encoding']?.trim().toLowerCase() || 'identity'
    if (encoding !== 'identity') {
      throw new Problem(
        'unsupported-type',
        `the Content-Encoding ${encoding} is not supported; send the body without one`,
      )
    }
    // RFC 9110, 8.3: a body without a type may be treated as application/octet-stream.
    if (takes.includes('application/octet-stream')) headers['content-type'] ||= 'application/octet-stream'
    const type = mediaTypeOf({ headers })
    // The content decides the format of an image. SVG is refused by name.
    const isImage = type?.startsWith('image/') && type !== 'image/svg+xml'
    if (type !== undefined && (takes.includes(type) || (isImage && takes.includes('image/*')))) return
    const found = type === undefined ? 'the request has no Content-Type' : `${type} is not accepted here`
    throw new Problem('unsupported-type', `${found}; send ${takes.join(', ')}`)
  }
}
