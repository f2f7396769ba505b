import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { QueueFullError } from '../inference/inference.ts'
import { admissionOf } from './admission.ts'
import { Problem } from './problem.ts'

/** One part of a form. */
export interface Part {
  /** The name of the form field. */
  field: string
  /** Whether it has a file name. Browsers and HTTP libraries send one with files, not with text. */
  isFile: boolean
  bytes: Buffer
}

/** Lets requests have `multipart/form-data` bodies, which {@link readParts} reads. */
export async function acceptMultipart(http: FastifyInstance): Promise<void> {
  // Admission limits the number of parts and the bytes of all of them together, which the plugin cannot.
  await http.register(multipart, { limits: { parts: Number.POSITIVE_INFINITY, fileSize: Number.POSITIVE_INFINITY } })
}

/**
 * Reads a multipart body: every part is an image, in order, and is admitted when it begins. The plugin's parser silently
 * skips parts that it does not understand, for example after white space behind a boundary. That would give fewer rows
 * than images, and every later row would belong to another image. So the delimiters are checked and counted as well, and
 * a body that two parsers could split differently is refused.
 */
export async function readParts(request: FastifyRequest): Promise<void> {
  if (!request.isMultipart()) return
  const { raw } = request
  const admission = admissionOf(request)
  const images: Part[] = []
  const receive = (chunk: Buffer) => {
    try {
      // The bytes between the parts count as well.
      admission.receive(chunk.length)
      delimiters.check(chunk)
    } catch (error) {
      admission.abort(toProblem(error))
    }
  }
  const read = async () => {
    for await (const part of request.files({ isPartAFile: () => true })) {
      admission.admit(images.length + 1)
      const chunks: Buffer[] = []
      for await (const chunk of part.file) chunks.push(chunk)
      images.push({ field: part.fieldname, isFile: part.filename !== undefined, bytes: Buffer.concat(chunks) })
    }
    delimiters.end(images.length)
  }
  let delimiters: Delimiters
  try {
    delimiters = new Delimiters(request.headers['content-type'] as string)
    raw.on('data', receive)
    await admission.each([request], read)
  } catch (error) {
    throw toProblem(error)
  } finally {
    raw.off('data', receive)
  }
  request.body = { images }
}

function toProblem(error: unknown): Error {
  if (error instanceof Problem || error instanceof QueueFullError) return error
  return new Problem('malformed', `the multipart body is malformed: ${(error as Error).message}`, {}, error)
}

const CR = 0x0d
const LF = 0x0a

/** Checks the delimiter lines of a body as it arrives (RFC 2046), and counts the parts that they begin. */
class Delimiters {
  readonly #delimiter: Buffer
  // The first delimiter has no line break before it, and any may arrive in two chunks. The first two bytes were searched.
  #tail: Buffer = Buffer.from('\r\n')
  #parts = 0
  #closed = false

  /** @param contentType the request's header, which names the boundary */
  constructor(contentType: string) {
    const named = [...contentType.matchAll(/;\s*boundary=(?:"([^"]*)"|([^;\s]*))/gi)]
    const [boundary] = named.map(([, quoted, plain]) => quoted ?? plain)
    if (named.length > 1) throw new Error('its Content-Type has more than one boundary')
    if (!boundary) throw new Error('its Content-Type has no boundary')
    this.#delimiter = Buffer.from(`--${boundary}`, 'latin1')
  }

  /** @throws Error at a line that begins with the boundary and is not exactly a delimiter */
  check(chunk: Buffer): void {
    const bytes = Buffer.concat([this.#tail, chunk])
    const { length } = this.#delimiter
    let at = bytes.indexOf(this.#delimiter, 2)
    while (at >= 0 && at + length + 2 <= bytes.length) {
      this.#checkLine(bytes, at)
      at = bytes.indexOf(this.#delimiter, at + 1)
    }
    // What may be the start of a delimiter is searched again with the next chunk, together with the line break before it.
    this.#tail = bytes.subarray(Math.max(0, (at >= 0 ? at : bytes.length - length - 1) - 2))
  }

  #checkLine(bytes: Buffer, at: number): void {
    const before = bytes[at - 1]
    if (before !== LF && before !== CR) return
    if (before === CR || bytes[at - 2] !== CR) throw new Error('its lines do not end with CR and LF')
    if (this.#closed) throw new Error('there are parts after its end')
    const end = bytes.toString('latin1', at + this.#delimiter.length, at + this.#delimiter.length + 2)
    if (end === '--') this.#closed = true
    else if (end === '\r\n') this.#parts++
    else throw new Error('a line begins with its boundary and does not end there with CR and LF')
  }

  /**
   * @param read the parts that the parser found
   * @throws Error unless the body has ended, with as many parts
   */
  end(read: number): void {
    if (!this.#closed) throw new Error(`it does not end with ${JSON.stringify(`${this.#delimiter}--`)}; it is cut off`)
    if (read !== this.#parts) {
      throw new Error(`${this.#parts} parts begin and ${read} are form-data with a Content-Disposition`)
    }
  }
}
