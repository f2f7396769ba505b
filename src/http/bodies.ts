import type { FastifyInstance, FastifyRequest } from 'fastify'
import { type NpyArray, NpyError, parseNpy } from '../formats/npy.ts'
import { admissionOf } from './admission.ts'
import { acceptMultipart } from './multipart.ts'
import { Problem } from './problem.ts'

// The contract nests three deep. Up to this depth its schemas report the fault; far beyond it, parsing takes seconds.
const DEEPEST_JSON = 16

/** Parsers for exactly the bodies of the contract: another type would skip validation. */
export async function addBodyParsers(http: FastifyInstance): Promise<void> {
  http.removeAllContentTypeParsers()
  const parseJson = http.getDefaultJsonParser('error', 'error')
  http.addContentTypeParser('application/json', { parseAs: 'string' }, (request, text: string, done) => {
    if (isNestedDeeper(text, DEEPEST_JSON)) {
      return done(new Problem('malformed', `the JSON is nested deeper than ${DEEPEST_JSON}`))
    }
    return parseJson(request, text, done)
  })
  const asBytes = async (_: FastifyRequest, bytes: Buffer) => bytes
  http.addContentTypeParser(/^(image\/|application\/octet-stream)/, { parseAs: 'buffer' }, asBytes)
  http.addContentTypeParser(
    'application/x-npy',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, bytes: Buffer): Promise<NpyArray> =>
      withArrayErrors(() => {
        const array = parseNpy(bytes)
        // Admits as many items as the header announces before any is read. One dimension is one sequence.
        const [first = 1, ...rest] = array.shape
        if (rest.length > 0) admissionOf(request).admit(first)
        return array
      }),
  )
  await acceptMultipart(http)
}

/** Runs `read`; an array that it cannot use makes the request malformed. */
export function withArrayErrors<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw error instanceof NpyError ? new Problem('malformed', error.message, {}, error) : error
  }
}

/** Whether a parsed body is a NumPy array. */
export function isArray(body: object): body is NpyArray {
  return 'dtype' in body
}

/** Whether brackets nest deeper than `most`. Stops at the first that do, or at a string that does not end. */
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

/** The end of the string that begins at `start`, or the end of the text. */
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
