import type { FastifyRequest, RouteHandlerMethod } from 'fastify'
import pLimit from 'p-limit'
import { decodeImage, ImageError } from '../formats/decode-image.ts'
import { type NpyArray, NpyError, writeNpy } from '../formats/npy.ts'
import { poolSize } from '../formats/thread-pool.ts'
import { type Admission, admissionOf } from '../http/admission.ts'
import { isArray, withArrayErrors } from '../http/bodies.ts'
import { mediaTypeOf } from '../http/media-types.ts'
import type { Part } from '../http/multipart.ts'
import { negotiate } from '../http/negotiate.ts'
import type { components, operations } from '../http/openapi.d.ts'
import { Problem, type ProblemKind } from '../http/problem.ts'
import type { Services } from '../services.ts'

type Query = NonNullable<operations['encode']['parameters']['query']>
type Answer = components['schemas']['Tokens']

/** A raw image, an array of images, base64 strings of a JSON body, or parts of a form. */
type Body = Buffer | NpyArray | { images: (string | Part)[] }

interface File {
  bytes: Buffer
  /** Its name in errors. */
  name: string
}

const problemOf: Record<ImageError['reason'], ProblemKind> = {
  undecodable: 'undecodable-image',
  'unknown-format': 'undecodable-image',
  unsupported: 'unsupported-type',
  'too-many-pixels': 'too-many-pixels',
}

/** `POST /encode`: images to tokens. */
export function encode(services: Services): RouteHandlerMethod {
  const { config, inference, metrics } = services
  const { info } = inference

  /** The contract bounds lengths; a model without prefixes has only one. */
  function checkLength(length: number): void {
    if (info.kind === 'parallel' && length !== info.length) {
      throw new Problem(
        'malformed',
        `query.length is ${length}; this model's tokens have no order, so it must be ${info.length}`,
      )
    }
  }

  /** Image files of the request, in order. All are admitted before any is decoded. */
  function filesOf(body: Exclude<Body, NpyArray>, admission: Admission): File[] {
    if (Buffer.isBuffer(body)) return [{ bytes: body, name: 'image 0' }]
    admission.admit(body.images.length)
    return body.images.map((image, item) => {
      if (typeof image === 'string') return { bytes: fromBase64(image, item), name: `image ${item}` }
      const field = image.isFile ? '' : ` (form field ${JSON.stringify(image.field)}, sent without a file name)`
      return { bytes: image.bytes, name: `image ${item}${field}` }
    })
  }

  /** Decodes one image to the pixels that the model takes. */
  async function pixelsOf({ bytes, name }: File, item: number, request: FastifyRequest): Promise<Uint8Array> {
    admissionOf(request).signal.throwIfAborted()
    const start = performance.now()
    try {
      return await decodeImage(bytes, {
        ...info.image,
        maxPixels: config.maxPixels,
      })
    } catch (error) {
      if (!(error instanceof ImageError)) throw error
      // Only the content shows what a body without a type is.
      const untyped = mediaTypeOf(request) === 'application/octet-stream'
      const kind = untyped && error.reason === 'unknown-format' ? 'unsupported-type' : problemOf[error.reason]
      throw new Problem(kind, `${name} ${error.message}`, { item }, error)
    } finally {
      const preprocess = performance.now() - start
      admissionOf(request).time({ preprocess })
      metrics.image('preprocess', preprocess)
    }
  }

  return async (request, reply) => {
    const admission = admissionOf(request)
    const { length = info.length } = request.query as Query
    checkLength(length)
    const type = negotiate(request, ['application/json', 'application/x-npy'])

    const toTokens = async (pixels: Uint8Array | Promise<Uint8Array>): Promise<Uint16Array> => {
      const { tokens, timings } = await inference.encode(pixels, length, admission.signal)
      admission.time(timings)
      metrics.item('encode', timings)
      return tokens
    }
    let rows: Uint16Array[]
    const body = request.body as Body
    if (isArray(body)) {
      const images = withArrayErrors(() => imagesOf(body, info.imageSize))
      admission.admit(images.length)
      rows = await admission.each(images, toTokens)
    } else {
      const files = filesOf(body, admission)
      // At most as many as can run at once, so that requests share the thread pool fairly.
      const inTurn = pLimit(poolSize)
      rows = await admission.each(files, (file, item) => toTokens(inTurn(() => pixelsOf(file, item, request))))
    }

    reply.type(type)
    if (type === 'application/x-npy') {
      return writeNpy(
        '<u2',
        [rows.length, length],
        rows.map((row) => new Uint8Array(row.buffer, row.byteOffset, row.byteLength)),
      )
    }
    return { model: info.modelDigest, length, tokens: rows.map((row) => Array.from(row)) } satisfies Answer
  }
}

/** The images of a uint8 [N, size, size, 3] array. */
function imagesOf(array: NpyArray, size: number): Uint8Array[] {
  const [count = 0, ...image] = array.shape
  if (array.dtype !== 'u1' || image.join() !== [size, size, 3].join() || count === 0) {
    throw new NpyError(
      `the array must be uint8 [N, ${size}, ${size}, 3] with N at least 1, not ${array.dtype} [${array.shape.join(', ')}]`,
    )
  }
  const bytesEach = size * size * 3
  return Array.from({ length: count }, (_, i) => array.data.subarray(i * bytesEach, (i + 1) * bytesEach))
}

/** An image in a JSON body: base64, which may contain line breaks or be a data URL. */
function fromBase64(text: string, item: number): Buffer {
  const refuse = (reason: string): never => {
    throw new Problem('malformed', `image ${item} ${reason}`, { item })
  }
  const [prefix = '', encoding = ''] = /^data:[^,]{0,200}?(;base64)?,/i.exec(text.slice(0, 250)) ?? []
  if (prefix !== '' && encoding === '') refuse('is a data URL that is not base64')
  const digits = text.slice(prefix.length).replaceAll(/[ \t\r\n]+/g, '')
  const bytes = Buffer.from(digits, 'base64')
  // Buffer skips characters that are not base64, which shows in the length of the result.
  const count = digits.length - (digits.endsWith('==') ? 2 : digits.endsWith('=') ? 1 : 0)
  if (digits.length % 4 !== 0 || bytes.length !== Math.floor((count * 3) / 4)) refuse('is not base64')
  return bytes
}
