import type { FastifyRequest } from 'fastify'
import { type NpyArray, NpyError, parseNpy } from '../formats/npy.ts'
import { Problem } from '../http/problem.ts'

/**
 * The media type of the answer: of those offered the one that the client likes best, the first where it does not mind.
 *
 * @throws Problem 406
 */
export function negotiate<T extends string>(request: FastifyRequest, offered: T[]): T {
  const type = request.accepts().type(offered)
  if (typeof type !== 'string') {
    throw new Problem(
      'not-acceptable',
      `Accept has to allow ${offered.join(' or ')}, not ${request.headers.accept} alone`,
    )
  }
  return type as T
}

/** Whether the body is of this type, whatever its parameters. */
export function isOfType(request: FastifyRequest, type: string): boolean {
  return request.headers['content-type']?.split(';')[0]?.trim().toLowerCase() === type
}

/** Does `read` with the body as an array. What is wrong with the array is the client's fault. */
export function withArray<T>(body: Buffer, read: (array: NpyArray) => T): T {
  try {
    return read(parseNpy(body))
  } catch (error) {
    throw error instanceof NpyError ? new Problem('malformed', error.message, {}, error) : error
  }
}
