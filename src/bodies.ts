import type { Readable } from 'node:stream'
import { Busboy, type BusboyHeaders } from '@fastify/busboy'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { Problem } from './problem.ts'

/** Every body of the contract, none besides: a type without a schema would pass unchecked. */
export function addBodyParsers(http: FastifyInstance): void {
  http.removeAllContentTypeParsers()
  http.addContentTypeParser('application/json', { parseAs: 'string' }, http.getDefaultJsonParser('error', 'error'))
  http.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, async (_: FastifyRequest, bytes: Buffer) => bytes)
  http.addContentTypeParser('application/x-npy', { parseAs: 'buffer' }, async (_: FastifyRequest, b: Buffer) => b)
  http.addContentTypeParser('multipart/form-data', readParts)
}

/**
 * Reads every part as an image, in order. Busboy by itself rather than Fastify's plugin around it, which reads past the
 * counted body and so past its limit. Room for each image is made when its part begins.
 */
function readParts(request: FastifyRequest, body: Readable): Promise<{ images: Buffer[] }> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown) => {
      reject(error)
      body.destroy(error as Error)
    }
    const images: Buffer[] = []
    const readPart = (_name: string | undefined, part: Readable) => {
      const index = images.push(Buffer.alloc(0)) - 1
      const chunks: Buffer[] = []
      part.on('data', (chunk: Buffer) => chunks.push(chunk))
      part.on('end', () => {
        images[index] = Buffer.concat(chunks)
      })
      part.on('error', (error) => fail(malformed(error)))
      try {
        request.admission.admit(images.length)
      } catch (error) {
        fail(error)
      }
    }
    try {
      // The contract takes every part for an image, so none is left for Busboy's form fields.
      const busboy = new Busboy({ headers: request.headers as BusboyHeaders, isPartAFile: () => true })
      busboy.on('file', readPart)
      busboy.on('finish', () => resolve({ images }))
      busboy.on('error', (error) => fail(malformed(error)))
      body.on('error', reject)
      body.pipe(busboy)
    } catch (error) {
      fail(malformed(error))
    }
  })
}

function malformed(error: unknown): Problem {
  return new Problem('malformed', `the multipart body is broken: ${(error as Error).message}`, {}, error)
}
