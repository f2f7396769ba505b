// Plain Fastify which calls ONNX Runtime in the process that answers, one image at a time.
import '../../src/formats/thread-pool.ts'
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import { decodeImage } from '../../src/formats/decode-image.ts'
import { encodeImage } from '../../src/formats/encode-image.ts'
import { Model } from './model.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: '' },
    port: { type: 'string', default: '' },
    cores: { type: 'string', default: '1' },
  },
})
const model = await Model.load(values.model, Number(values.cores))
const size = model.shape.imageSize

const http = Fastify()
http.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, async (_: unknown, bytes: Buffer) => bytes)
http.post<{ Body: Buffer }>('/encode', async ({ body }) => {
  const pixels = await decodeImage(body, { size, maxPixels: Number.MAX_SAFE_INTEGER })
  return { tokens: [await model.encode(pixels)] }
})
http.post<{ Body: { tokens: number[] } }>('/decode', async ({ body }, reply) => {
  return reply.type('image/png').send(await encodeImage(await model.decode(body.tokens), size, 'png', 0))
})
http.get('/health/live', async () => ({ status: 'live' }))
await http.listen({ host: '127.0.0.1', port: Number(values.port) })
