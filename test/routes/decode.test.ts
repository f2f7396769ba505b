import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import sharp from 'sharp'
import { integers, parseNpy } from '../../src/formats/npy.ts'
import type { components } from '../../src/http/openapi.d.ts'
import { bytes, json, problem } from '../helpers/contract.ts'
import { type Backend, fixture, formOf, listen, photos, type Service, startBackend } from '../helpers/service.ts'

type Images = components['schemas']['DecodedImages']
type Tokens = components['schemas']['Tokens']

let backend: Backend
let service: Service
let rows: number[][]

before(async () => {
  backend = await startBackend()
  service = await listen(backend)
  const answer = fetch(`${service.base}/encode`, { method: 'POST', body: formOf(photos) })
  rows = (await json<Tokens>('POST', '/encode', answer)).tokens
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

const asJson = { 'content-type': 'application/json' }
const asNpy = { 'content-type': 'application/x-npy' }
const post = (body: RequestInit['body'], headers: Record<string, string> = asJson, query = '') =>
  fetch(`${service.base}/decode${query}`, { method: 'POST', body, headers })
const one = (tokens: unknown, query?: string, headers: Record<string, string> = {}) =>
  bytes('POST', '/decode', post(JSON.stringify({ tokens }), { ...asJson, ...headers }, query))
const batch = (tokens: unknown, query?: string) =>
  json<Images>('POST', '/decode', post(JSON.stringify({ tokens }), asJson, query))
const refused = (expected: Parameters<typeof problem>[0], answer: Promise<Response>) =>
  problem(expected, 'POST', '/decode', answer)
const pixelsOf = (file: Buffer) => sharp(file).raw().toBuffer()

/** Tokens are exact on the CPU, but a pixel between two values may be rounded either way, depending on the batch size. */
function assertClose(a: Buffer, b: Buffer): void {
  assert.equal(a.length, b.length)
  assert.ok(a.every((value, i) => Math.abs(value - (b[i] ?? 0)) <= 1))
}

/** Every image of a uint8 [N, 128, 128, 3] array as a png in base64. */
function pngsOf(data: Buffer): Promise<string[]> {
  const raw = { width: 128, height: 128, channels: 3 } as const
  const images = Array.from({ length: rows.length }, (_, i) => data.subarray(i * 49152, (i + 1) * 49152))
  return Promise.all(images.map(async (image) => (await sharp(image, { raw }).png().toBuffer()).toString('base64')))
}

async function sameImage(a: Buffer, b: Buffer): Promise<void> {
  assertClose(await pixelsOf(a), await pixelsOf(b))
}

test('any prefix gives an image of the model size', async () => {
  for (const length of [1, 2, 31, 32, 33, 64, 127, 128]) {
    const { format, width, height, channels } = await sharp(await one(rows[0]?.slice(0, length))).metadata()
    assert.deepEqual([format, width, height, channels], ['png', 128, 128, 3], `${length}`)
  }
})

test('a batch keeps its order, its rows may differ in length, and each gives the same image as alone', async () => {
  const mixed = rows.map((row, i) => row.slice(0, 1 + i * 17))
  const { model, format, images } = await batch(mixed)
  assert.equal(model, backend.inference.info.modelDigest)
  assert.equal(format, 'png')
  assert.equal(images.length, mixed.length)
  for (const [i, row] of mixed.entries()) {
    await sameImage(Buffer.from(images[i] ?? '', 'base64'), await one(row))
  }
  assert.equal((await batch([rows[0]])).images.length, 1)
})

test('format, quality and Accept choose the file', async () => {
  const formatOf = async (file: Buffer) => (await sharp(file).metadata()).format
  assert.equal(await formatOf(await one(rows[0], '?format=webp')), 'webp')
  assert.equal(await formatOf(await one(rows[0], '?format=jpeg')), 'jpeg')
  assert.equal(await formatOf(await one(rows[0], '', { accept: 'image/webp' })), 'webp')
  assert.equal(await formatOf(await one(rows[0], '', { accept: 'image/*' })), 'png')
  assert.equal(await formatOf(await one(rows[0], '', { accept: 'image/jpeg;q=0.9, image/png;q=0.1' })), 'jpeg')
  const [small, large] = await Promise.all([5, 95].map((quality) => one(rows[0], `?format=jpeg&quality=${quality}`)))
  assert.ok(small && large && small.length < large.length)
  const { format, images } = await batch(rows, '?format=webp')
  assert.equal(format, 'webp')
  for (const image of images) assert.equal(await formatOf(Buffer.from(image, 'base64')), 'webp')
})

test('the NumPy answer has the same pixels as the png, and encode accepts it', async () => {
  const accept = { accept: 'application/x-npy' }
  const array = await bytes('POST', '/decode', post(JSON.stringify({ tokens: rows }), { ...asJson, ...accept }))
  const { dtype, shape, data } = parseNpy(array)
  assert.deepEqual([dtype, shape], ['u1', [rows.length, 128, 128, 3]])
  const shown = await Promise.all((await batch(rows)).images.map((image) => pixelsOf(Buffer.from(image, 'base64'))))
  assertClose(data, Buffer.concat(shown))
  assert.deepEqual(parseNpy(await one(rows[0], '', accept)).shape, [1, 128, 128, 3])

  const asArray = fetch(`${service.base}/encode`, { method: 'POST', body: new Uint8Array(array), headers: asNpy })
  const asFiles = fetch(`${service.base}/encode`, {
    method: 'POST',
    body: JSON.stringify({ images: await pngsOf(data) }),
    headers: asJson,
  })
  const [fromArray, fromFiles] = await Promise.all([
    json<Tokens>('POST', '/encode', asArray),
    json<Tokens>('POST', '/encode', asFiles),
  ])
  assert.deepEqual(fromArray.tokens, fromFiles.tokens)
})

test('tokens that numpy wrote decode as in JSON', async () => {
  const tokens = integers(parseNpy(fixture('numpy/tokens-uint16.npy')))
  const both = [tokens.slice(0, 128), tokens.slice(128)]
  const fromNpy = (name: string) => json<Images>('POST', '/decode', post(fixture(`numpy/${name}.npy`), asNpy))
  const sameImages = async (a: Images, b: Images) => {
    assert.equal(a.images.length, b.images.length)
    for (const [i, image] of a.images.entries()) {
      await sameImage(Buffer.from(image, 'base64'), Buffer.from(b.images[i] ?? '', 'base64'))
    }
  }
  await sameImages(await fromNpy('tokens-uint16'), await batch(both))
  await sameImages(await fromNpy('tokens-version-2'), await batch(both))
  await sameImages(await fromNpy('tokens-int32-32-columns'), await batch(both.map((row) => row.slice(0, 32))))
  const single = await bytes('POST', '/decode', post(fixture('numpy/tokens-int64-1d.npy'), asNpy))
  await sameImage(single, await one(both[0]))
})

test('errors name the row and position of tokens out of range', async () => {
  const invalid = { status: 422, kind: 'invalid-tokens' }
  const send = (tokens: unknown) => post(JSON.stringify({ tokens }))
  const long = Array(129).fill(1)
  await refused({ ...invalid, detail: /4096 at position 2/, item: 0, position: 2 }, send([1, 2, 4096]))
  await refused({ ...invalid, detail: /-1 at position 0/, item: 0, position: 0 }, send([-1]))
  await refused({ ...invalid, detail: /row 1 .*position 3/, item: 1, position: 3 }, send([[5], [1, 2, 3, 9999]]))
  await refused({ ...invalid, detail: /129 tokens/, item: 0 }, send(long))
  await refused({ ...invalid, detail: /row 2 has 0 tokens/, item: 2 }, send([[1], [2], []]))
  await refused({ ...invalid, detail: /row 1 has 129 tokens/, item: 1 }, send([[1], long]))
  await refused({ ...invalid, detail: /0 tokens/, item: 0 }, send([]))
  await refused(
    { ...invalid, detail: /4096 at/, item: 0, position: 2 },
    post(fixture('numpy/tokens-out-of-range.npy'), asNpy),
  )
  await refused({ ...invalid, detail: /no tokens/ }, post(fixture('numpy/tokens-empty.npy'), asNpy))
  const negative = await post(fixture('numpy/tokens-negative.npy'), asNpy)
  assert.equal(negative.status, 422)
})

test('malformed bodies are refused', async () => {
  const malformed = { status: 400, kind: 'malformed' }
  const cases: [string, RegExp, { item?: number; position?: number }?][] = [
    ['[1,2]', /must be an object/],
    ['{}', /tokens/],
    ['{"tokens":null}', /body\.tokens must be an array/],
    ['{"tokens":7}', /body\.tokens must be an array/],
    ['{"tokens":[1,null]}', /body\.tokens\[1\] must be an integer/, { item: 1 }],
    ['{"tokens":["1"]}', /body\.tokens\[0\] must be an integer/, { item: 0 }],
    ['{"tokens":[1.5]}', /body\.tokens\[0\] must be an integer/, { item: 0 }],
    ['{"tokens":[true]}', /body\.tokens\[0\] must be an integer/, { item: 0 }],
    ['{"tokens":[[1],[2,"x"]]}', /body\.tokens\[1\]\[1\] must be an integer/, { item: 1, position: 1 }],
    ['{"tokens":[[[1]]]}', /body\.tokens\[0\]\[0\] must be an integer/, { item: 0, position: 0 }],
    ['{"tokens":[1],"format":"png"}', /must not have the property "format"/],
    ['', /body/i],
  ]
  for (const [body, detail, place] of cases) await refused({ ...malformed, detail, ...place }, post(body))
  const arrays: [string, RegExp][] = [
    ['tokens-float64', /integer type, not f8/],
    ['tokens-3d', /2, 4, 32/],
    ['tokens-object', /Python objects/],
    ['tokens-truncated', /announces/],
  ]
  for (const [name, detail] of arrays)
    await refused({ ...malformed, detail }, post(fixture(`numpy/${name}.npy`), asNpy))
})

test('invalid queries are refused', async () => {
  const malformed = { status: 400, kind: 'malformed' }
  const body = JSON.stringify({ tokens: [1] })
  for (const query of ['?format=gif', '?quality=0', '?quality=101', '?quality=high', '?model=']) {
    await refused(
      { ...malformed, detail: new RegExp(query.slice(1).split('=')[0] as string) },
      post(body, asJson, query),
    )
  }
})

test('tokens of another model are refused', async () => {
  const body = JSON.stringify({ tokens: rows[0] })
  const { modelDigest: model } = backend.inference.info
  await refused(
    { status: 409, kind: 'other-model', detail: new RegExp(model) },
    post(body, asJson, `?model=${'0'.repeat(64)}`),
  )
  assert.equal((await post(body, asJson, `?model=${model}`)).status, 200)
})

test('unsupported answer types and bodies are refused', async () => {
  const body = JSON.stringify({ tokens: rows[0] })
  const batched = JSON.stringify({ tokens: rows })
  const unacceptable = { status: 406, kind: 'not-acceptable', detail: /x-npy/ }
  await refused(unacceptable, post(body, { ...asJson, accept: 'application/json' }))
  await refused(unacceptable, post(body, { ...asJson, accept: 'image/png' }, '?format=webp'))
  await refused(unacceptable, post(batched, { ...asJson, accept: 'image/png' }))
  const unsupported = { status: 415, kind: 'unsupported-type' }
  await refused({ ...unsupported, detail: /image\/png/ }, post(photos[0], { 'content-type': 'image/png' }))
  await refused({ ...unsupported, detail: /multipart/ }, post(formOf(photos), {}))
})
