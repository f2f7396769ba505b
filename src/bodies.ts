import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { QueueFullError } from './inference/index.ts'
import { Problem } from './problem.ts'

/** Every body of the contract, none besides: a type without a schema would pass unchecked. */
export async function addBodyParsers(http: FastifyInstance): Promise<void> {
  http.removeAllContentTypeParsers()
  http.addContentTypeParser('application/json', { parseAs: 'string' }, http.getDefaultJsonParser('error', 'error'))
  http.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, async (_: FastifyRequest, bytes: Buffer) => bytes)
  http.addContentTypeParser('application/x-npy', { parseAs: 'buffer' }, async (_: FastifyRequest, b: Buffer) => b)
  // Admission bounds the number of parts and the bytes of all of them together, which the plugin cannot.
  await http.register(multipart, { limits: { parts: Number.POSITIVE_INFINITY, fileSize: Number.POSITIVE_INFINITY } })
}

/** Reads a multipart body: every part an image, in order. Room for each image is made when its part begins. */
export async function readParts(request: FastifyRequest): Promise<void> {
  if (!request.isMultipart()) return
  const { admission, raw } = request
  const images: Buffer[] = []
  const read = async () => {
    try {
      // The contract takes every part for an image, so none is left for form fields.
      for await (const part of request.files({ isPartAFile: () => true })) {
        admission.admit(images.length + 1)
        const chunks: Buffer[] = []
        for await (const chunk of part.file) {
          admission.receive(chunk.length)
          chunks.push(chunk)
        }
        images.push(Buffer.concat(chunks))
      }
    } catch (error) {
      throw error instanceof Problem || error instanceof QueueFullError ? error : malformed(error)
    }
  }
  try {
    await admission.each([request], read)
  } catch (error) {
    // What is left is read unheard, so that the client, which may still be writing it, gets to read the answer.
    raw.unpipe()
    raw.resume()
    throw error
  }
  request.body = { images }
}

function malformed(error: unknown): Problem {
  return new Problem('malformed', `the multipart body is broken: ${(error as Error).message}`, {}, error)
}
