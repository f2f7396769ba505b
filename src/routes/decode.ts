import type { FastifyRequest, RouteHandlerMethod } from 'fastify'
import pLimit from 'p-limit'
import { encodeImage, type ImageFormat } from '../formats/encode-image.ts'
import { integers, type NpyArray, NpyError, writeNpy } from '../formats/npy.ts'
import { poolSize } from '../formats/thread-pool.ts'
import { admissionOf } from '../http/admission.ts'
import { isArray, withArrayErrors } from '../http/bodies.ts'
import { negotiate } from '../http/negotiate.ts'
import type { components, operations } from '../http/openapi.d.ts'
import { Problem } from '../http/problem.ts'
import type { Services } from '../services.ts'

type Query = NonNullable<operations['decode']['parameters']['query']>
type Body = components['schemas']['Sequences']
type Answer = components['schemas']['DecodedImages']

/** The content of the request: one sequence, answered with an image, or a batch. */
interface Sequences {
  rows: number[][]
  batch: boolean
}

const formats: ImageFormat[] = ['png', 'webp', 'jpeg']

/** `POST /decode`: tokens to images. */
export function decode(services: Services): RouteHandlerMethod {
  const { inference, metrics } = services
  const { info } = inference

  /** Checks every row against the model. */
  function check({ rows, batch }: Sequences): void {
    if (rows.length === 0) throw new Problem('invalid-tokens', 'there are no tokens')
    for (const [item, row] of rows.entries()) {
      const where = batch ? `row ${item}` : 'the sequence'
      if (row.length === 0 || row.length > info.length) {
        const allowed = info.prefixes ? `1 to ${info.length}` : info.length
        throw new Problem('invalid-tokens', `${where} has ${row.length} tokens; it must have ${allowed}`, { item })
      }
      if (!info.prefixes && row.length < info.length) {
        throw new Problem(
          'invalid-tokens',
          `${where} has ${row.length} tokens; this model decodes only whole sequences of ${info.length}`,
          { item },
        )
      }
      const position = row.findIndex((id) => id < 0 || id >= info.codebook.size)
      if (position >= 0) {
        throw new Problem(
          'invalid-tokens',
          `${where} has ${row[position]} at position ${position}; token ids must be 0 to ${info.codebook.size - 1}`,
          { item, position },
        )
      }
    }
  }

  return async (request, reply) => {
    const admission = admissionOf(request)
    const { model, format, quality } = request.query as Query & { quality: number }
    if (model !== undefined && model !== info.modelDigest) {
      throw new Problem('other-model', `the tokens belong to model ${model}; this server runs ${info.modelDigest}`)
    }
    const body = request.body as Body | NpyArray
    const sequences = isArray(body) ? withArrayErrors(() => sequencesOf(body)) : sequencesIn(body)
    const { rows, batch } = sequences
    admission.admit(rows.length)
    check(sequences)
    const images = (format === undefined ? formats : [format]).map((name) => `image/${name}` as const)
    const type = negotiate(request, [...(batch ? (['application/json'] as const) : images), 'application/x-npy'])
    reply.type(type)

    const toPixels = async (row: number[]): Promise<Uint8Array> => {
      const { pixels, timings } = await inference.decode(row, admission.signal)
      admission.time(timings)
      metrics.item('decode', timings)
      return pixels
    }
    if (type === 'application/x-npy') {
      const pixels = await admission.each(rows, toPixels)
      return writeNpy('|u1', [rows.length, info.imageSize, info.imageSize, 3], pixels)
    }
    const chosen = type === 'application/json' ? (format ?? 'png') : (type.slice('image/'.length) as ImageFormat)
    // At most as many as can run at once, so that requests share the thread pool fairly.
    const inTurn = pLimit(poolSize)
    const files = await admission.each(rows, async (row) => {
      const pixels = await toPixels(row)
      return inTurn(() => fileOf(pixels, chosen, quality, request))
    })
    if (!batch) return files[0]
    return {
      model: info.modelDigest,
      format: chosen,
      images: files.map((file) => file.toString('base64')),
    } satisfies Answer
  }

  async function fileOf(
    pixels: Uint8Array,
    format: ImageFormat,
    quality: number,
    request: FastifyRequest,
  ): Promise<Buffer> {
    admissionOf(request).signal.throwIfAborted()
    const start = performance.now()
    const file = await encodeImage(pixels, info.imageSize, format, quality)
    const postprocess = performance.now() - start
    admissionOf(request).time({ postprocess })
    metrics.image('postprocess', postprocess)
    return file
  }
}

/** The rows of a JSON body. Validation has made sure that they are all numbers or all arrays. */
function sequencesIn({ tokens }: Body): Sequences {
  const batch = Array.isArray(tokens[0])
  return { rows: batch ? (tokens as number[][]) : [tokens as number[]], batch }
}

function sequencesOf(array: NpyArray): Sequences {
  const [first = 0, second = 0] = array.shape
  const values = integers(array)
  if (array.shape.length === 1) return { rows: [values], batch: false }
  if (array.shape.length !== 2) {
    throw new NpyError(`the array must have the shape [length] or [N, length], not [${array.shape.join(', ')}]`)
  }
  return { rows: Array.from({ length: first }, (_, i) => values.slice(i * second, (i + 1) * second)), batch: true }
}
