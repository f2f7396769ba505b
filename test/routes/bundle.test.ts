import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import sharp from 'sharp'
import { parse } from 'yaml'
import { parseNpy, writeNpy } from '../../src/formats/npy.ts'
import { readContract } from '../../src/http/contract.ts'
import { contractFor } from '../../src/http/served-contract.ts'
import { tinyBundle } from '../helpers/bundle.ts'
import { type Backend, fixture, listen, type Service, startBackend } from '../helpers/service.ts'

// The contract depends on the bundle: here the tokens have no order and prefixes do not decode.
let backend: Backend
let service: Service
before(async () => {
  backend = await startBackend({ model: tinyBundle('parallel') })
  service = await listen(backend)
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

const cat = fixture('photos/full/cat.jpg')
const asJpeg = { 'content-type': 'image/jpeg' }
const asJson = { 'content-type': 'application/json' }
const post = (path: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string>) =>
  fetch(service.base + path, { method: 'POST', body, headers })
const decode = (tokens: unknown) => post('/decode', JSON.stringify({ tokens }), asJson)

async function detailOf(answer: Promise<Response>, status: number): Promise<string> {
  const response = await answer
  const problem = (await response.json()) as { detail: string }
  assert.equal(response.status, status, problem.detail)
  return problem.detail
}

test('info describes the bundle', async () => {
  const info = (await (await fetch(`${service.base}/info`)).json()) as Record<string, unknown>
  const { kind, prefixes, imageSize, image, length, stages, codebook, source } = info
  assert.deepEqual(
    { kind, prefixes, imageSize, length, stages },
    {
      ...{ kind: 'parallel', prefixes: false, imageSize: 16, length: 4, stages: [4] },
    },
  )
  assert.deepEqual(codebook, { size: 16, dimension: 2, normalised: false })
  assert.deepEqual(source, { family: 'fixture', licence: 'MIT' })
  assert.deepEqual(image, {
    ...{ size: 16, kernel: 'bicubic', longerSide: 'floor', cropOffset: 'half-even' },
    ...{ space: 'srgb', background: '#ffffff' },
  })
})

test('a length other than the full one is refused with the reason', async () => {
  const whole = await post('/encode?length=4', cat, asJpeg)
  assert.equal(((await whole.json()) as { length: number }).length, 4)
  const detail = await detailOf(post('/encode?length=3', cat, asJpeg), 400)
  assert.equal(detail, "query.length is 3; this model's tokens have no order, so it must be 4")
  assert.match(await detailOf(post('/encode?length=5', cat, asJpeg), 400), /length must be at most 4$/)
})

test('an incomplete sequence is refused with the row and the reason', async () => {
  assert.equal(
    await detailOf(
      decode([
        [1, 2, 3, 4],
        [1, 2, 3],
      ]),
      422,
    ),
    'row 1 has 3 tokens; this model decodes only whole sequences of 4',
  )
  assert.match(await detailOf(decode([1, 2, 3, 4, 5]), 422), /^the sequence has 5 tokens; it must have 4$/)
  assert.match(await detailOf(decode([1, 2, 3, 16]), 422), /token ids must be 0 to 15$/)
  const picture = await decode([0, 5, 10, 15])
  const { data, info } = await sharp(await picture.arrayBuffer())
    .raw()
    .toBuffer({ resolveWithObject: true })
  assert.deepEqual([info.width, info.height, data[0], data.at(-1)], [16, 16, 0, 255])
})

test('NumPy arrays have the bundle’s sizes', async () => {
  const pixels = new Uint8Array(2 * 16 * 16 * 3).fill(85)
  const body = writeNpy('|u1', [2, 16, 16, 3], [pixels])
  const npy = { 'content-type': 'application/x-npy', accept: 'application/x-npy' }
  const tokens = parseNpy(Buffer.from(await (await post('/encode', new Uint8Array(body), npy)).arrayBuffer()))
  assert.deepEqual([tokens.dtype, tokens.shape, tokens.data[0]], ['u2', [2, 4], 5])
  const codebook = parseNpy(Buffer.from(await (await fetch(`${service.base}/codebook`)).arrayBuffer()))
  assert.deepEqual([codebook.dtype, codebook.shape], ['f4', [16, 2]])
})

test('the documentation shows the sizes of the served model', async () => {
  const text = await (await fetch(`${service.base}/openapi.yaml`)).text()
  const { paths, components } = parse(text)
  const [length] = paths['/encode'].post.parameters
  assert.equal(length.schema.maximum, 4)
  assert.match(length.description, /only a whole sequence means something/)
  assert.equal(components.schemas.TokenId.description, 'From 0 to 15')
  assert.match(components.schemas.Sequences.description, /^Exactly 4 tokens each/)
  assert.match(text, /uint8 \[N, 16, 16, 3\]/)
  assert.match(text, /float32 \[16, 2\]/)
  assert.doesNotMatch(text, /4096|128 tokens|all 128|maximum: 128/)
  const shown = await (await fetch(`${service.base}/docs/json`)).json()
  assert.deepEqual(shown, parse(text))
})

test('the file in the repository has the sizes of the default bundle', async () => {
  const contract = readContract()
  const sizes = { kind: 'causal', prefixes: true, imageSize: 128, length: 128 } as const
  const codebook = { size: 4096, dimension: 12, normalised: true }
  assert.equal(contractFor(contract, { ...sizes, codebook }), contract)
})
