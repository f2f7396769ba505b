import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { QueueFullError } from '../inference/inference.ts'
import { withArray } from '../routes/shared.ts'
import { Problem } from './problem.ts'

// The contract nests three deep; a little deeper, its schemas say where the fault is. Far deeper, parsing takes seconds.
const DEEPEST_JSON = 16

/** Every body of the contract, none besides: a type without a schema would pass unchecked. */
export async function addBodyParsers(http: FastifyInstance): Promise<void> {
  http.removeAllContentTypeParsers()
  const parseJson = http.getDefaultJsonParser('error', 'error')
  http.addContentTypeParser('application/json', { parseAs: 'string' }, (request, text: string, done) => {
    if (isNestedDeeper(text, DEEPEST_JSON)) {
      return done(new Problem('malformed', `the JSON is nested deeper than ${DEEPEST_JSON}`))
    }
    return parseJson(request, text, done)
  })
  http.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, async (_: FastifyRequest, bytes: Buffer) => bytes)
  http.addContentTypeParser(
    'application/x-npy',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, bytes: Buffer) => {
      // Room for as many items as the header announces, before any is read. One dimension is one sequence.
      withArray(bytes, ({ shape: [first = 1, ...rest] }) => rest.length > 0 && request.admission.admit(first))
      return bytes
    },
  )
  // Admission bounds the number of parts and the bytes of all of them together, which the plugin cannot.
  await http.register(multipart, { limits: { parts: Number.POSITIVE_INFINITY, fileSize: Number.POSITIVE_INFINITY } })
}

/** Reads a multipart body: every part an image, in order. Room for each image is made when its part begins. */
export async function readParts(request: FastifyRequest): Promise<void> {
  if (!request.isMultipart()) return
  const { admission, raw } = request
  const images: Buffer[] = []
  const parts = partCounter(request.headers['content-type'] as string)
  // Every byte, those between the parts too.
  const count = (chunk: Buffer) => {
    try {
      admission.receive(chunk.length)
      parts.add(chunk)
    } catch (error) {
      admission.abort(error as Error)
    }
  }
  const read = async () => {
    try {
      raw.on('data', count)
      // The contract takes every part for an image, so none is left for form fields.
      for await (const part of request.files({ isPartAFile: () => true })) {
        admission.admit(images.length + 1)
        const chunks: Buffer[] = []
        for await (const chunk of part.file) chunks.push(chunk)
        images.push(Buffer.concat(chunks))
      }
      if (images.length < parts.count) {
        throw new Error(`${parts.count} parts begin and ${images.length} are form-data with a Content-Disposition`)
      }
    } catch (error) {
      throw error instanceof Problem || error instanceof QueueFullError ? error : malformed(error)
    }
  }
  try {
    await admission.each([request], read)
  } catch (error) {
    // What is left is read unheard, so that the client, which may still be writing it, gets to read the answer.
    raw.off('data', count)
    raw.unpipe()
    raw.resume()
    throw error
  }
  request.body = { images }
}

/**
 * Counts the parts that a body begins as it arrives. The parser passes over those without a Content-Disposition, and the
 * tokens of all images behind one would be taken for another's.
 */
function partCounter(contentType: string): { count: number; add(chunk: Buffer): void } {
  const [, quoted, plain] = /boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(contentType) ?? []
  const delimiter = Buffer.from(`\r\n--${quoted ?? plain}\r\n`, 'latin1')
  // The first delimiter has no line before it, and any may come in two chunks.
  let tail = Buffer.from('\r\n')
  return {
    count: 0,
    add(chunk) {
      const bytes = Buffer.concat([tail, chunk])
      for (let at = bytes.indexOf(delimiter); at >= 0; at = bytes.indexOf(delimiter, at + 1)) this.count++
      tail = bytes.subarray(Math.max(0, bytes.length - delimiter.length + 1))
    },
  }
}

function malformed(error: unknown): Problem {
  return new Problem('malformed', `the multipart body is broken: ${(error as Error).message}`, {}, error)
}

/** Whether brackets nest deeper than `most`. Stops at the first that do, and where a string has no end. */
function isNestedDeeper(text: string, most: number): boolean {
  let depth = 0
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '"':
        at = endOfString(text, at)
        break
      case '[':
      case '{':
        if (++depth > most) return true
        break
      case ']':
      case '}':
        depth--
    }
  }
  return false
}

/** Where the string that begins at `start` ends; the text's end where it does not. */
function endOfString(text: string, start: number): number {
  let end = start
  let backslashes: number
  do {
    end = text.indexOf('"', end + 1)
    if (end < 0) return text.length
    backslashes = 0
    while (text[end - 1 - backslashes] === '\\') backslashes++
  } while (backslashes % 2 === 1)
  return end
}
