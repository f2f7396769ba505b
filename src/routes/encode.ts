import type { FastifyRequest, RouteHandlerMethod } from 'fastify'
import pLimit from 'p-limit'
import { decodeImage, ImageError } from '../formats/decode-image.ts'
import { type NpyArray, NpyError, writeNpy } from '../formats/npy.ts'
import { poolSize } from '../formats/thread-pool.ts'
import type { Admission } from '../http/admission.ts'
import type { components, operations } from '../http/openapi.d.ts'
import { Problem, type ProblemKind } from '../http/problem.ts'
import type { Services } from '../services.ts'
import { isOfType, negotiate, withArray } from './shared.ts'

type Query = NonNullable<operations['encode']['parameters']['query']>
type Answer = components['schemas']['Tokens']

const problemOf: Record<ImageError['reason'], ProblemKind> = {
  undecodable: 'undecodable-image',
  unsupported: 'unsupported-type',
  'too-many-pixels': 'too-many-pixels',
}

/** `POST /encode`: images to tokens. */
export function encode(services: Services): RouteHandlerMethod {
  const { config, inference, metrics } = services
  const { info } = inference

  /** The contract bounds lengths; a model without prefixes has one only. */
  function checkLength(length: number): void {
    if (info.kind === 'parallel' && length !== info.length) {
      throw new Problem(
        'malformed',
        `query.length is ${length}; this model's tokens have no order, so only all ${info.length} together mean something`,
      )
    }
  }

  /** Image files of the request, in order. Room for all is made before any is read. */
  function filesOf(body: Buffer | { images: (Buffer | string)[] }, admission: Admission): Buffer[] {
    if (Buffer.isBuffer(body)) return [body]
    admission.admit(body.images.length)
    return body.images.map((image, item) => (typeof image === 'string' ? fromBase64(image, item) : image))
  }

  /** One image to the pixels the model takes. */
  async function pixelsOf(bytes: Buffer, item: number, request: FastifyRequest): Promise<Uint8Array> {
    request.admission.signal.throwIfAborted()
    const start = performance.now()
    try {
      return await decodeImage(bytes, {
        ...info.image,
        maxPixels: config.maxPixels,
      })
    } catch (error) {
      if (!(error instanceof ImageError)) throw error
      throw new Problem(problemOf[error.reason], `image ${item} ${error.message}`, { item }, error)
    } finally {
      const preprocess = performance.now() - start
      request.admission.time({ preprocess })
      metrics.image('preprocess', preprocess)
    }
  }

  return async (request, reply) => {
    const { admission } = request
    const { length = info.length } = request.query as Query
    checkLength(length)
    const type = negotiate(request, ['application/json', 'application/x-npy'])

    const toTokens = async (pixels: Uint8Array | Promise<Uint8Array>): Promise<Uint16Array> => {
      const { tokens, timings } = await inference.encode(pixels, length, admission.signal, request.raw.socket)
      admission.time(timings)
      metrics.item('encode', timings)
      return tokens
    }
    let rows: Uint16Array[]
    if (isOfType(request, 'application/x-npy')) {
      const images = withArray(request.body as Buffer, (array) => imagesOf(array, info.imageSize))
      admission.admit(images.length)
      rows = await admission.each(images, toTokens)
    } else {
      const files = filesOf(request.body as Buffer | { images: (Buffer | string)[] }, admission)
      // No more than run anyway, so that requests take turns at the pool.
      const inTurn = pLimit(poolSize)
      rows = await admission.each(files, (bytes, item) => toTokens(inTurn(() => pixelsOf(bytes, item, request))))
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
      `the array has to be uint8 [N, ${size}, ${size}, 3] with N at least 1, not ${array.dtype} [${array.shape.join(', ')}]`,
    )
  }
  const bytesEach = size * size * 3
  return Array.from({ length: count }, (_, i) => array.data.subarray(i * bytesEach, (i + 1) * bytesEach))
}

/** Buffer skips what is no base64, which shows in the length of what it read. */
function fromBase64(text: string, item: number): Buffer {
  const bytes = Buffer.from(text, 'base64')
  const digits = text.length - (text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0)
  if (text.length % 4 !== 0 || bytes.length !== Math.floor((digits * 3) / 4)) {
    throw new Problem('malformed', `image ${item} is not base64`, { item })
  }
  return bytes
}
