import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import sharp from 'sharp'
import { integers, parseNpy } from '../../src/formats/npy.ts'
import type { components } from '../../src/http/openapi.d.ts'
import { bytes, json, problem } from '../helpers/contract.ts'
import { type Backend, fixture, formOf, listen, photos, type Service, startBackend } from '../helpers/service.ts'

type Tokens = components['schemas']['Tokens']

let backend: Backend
let service: Service

before(async () => {
  backend = await startBackend()
  service = await listen(backend)
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

const post = (body: RequestInit['body'], headers: Record<string, string> = {}, query = '') =>
  fetch(`${service.base}/encode${query}`, { method: 'POST', body, headers })
const encode = (body: RequestInit['body'], headers?: Record<string, string>, query?: string) =>
  json<Tokens>('POST', '/encode', post(body, headers, query))
const asJson = { 'content-type': 'application/json' }
const asNpy = { 'content-type': 'application/x-npy' }
const base64 = (images: Buffer[]) => JSON.stringify({ images: images.map((image) => image.toString('base64')) })
const refused = (expected: Parameters<typeof problem>[0], answer: Promise<Response>) =>
  problem(expected, 'POST', '/encode', answer)

const pixelsOf = (file: Buffer) => sharp(file).raw().toBuffer()

/** A pixel between two values may be rounded either way, depending on the batch size. */
function assertClose(a: Buffer, b: Buffer): void {
  assert.ok(a.length === b.length && a.every((value, i) => Math.abs(value - (b[i] ?? 0)) <= 1))
}

/** The share of positions at which two encodings agree. */
const agreement = (a: number[] = [], b: number[] = []) => a.filter((id, i) => id === b[i]).length / a.length

test('each photo gives 128 ids, and different photos give different ids', async () => {
  const { model, length, tokens } = await encode(formOf(photos))
  assert.equal(model, backend.inference.info.modelDigest)
  assert.equal(length, 128)
  assert.equal(tokens.length, photos.length)
  for (const row of tokens) {
    assert.equal(row.length, 128)
    assert.ok(row.every((id) => Number.isInteger(id) && id >= 0 && id < 4096))
    assert.ok(new Set(row).size > 16)
  }
  assert.equal(new Set(tokens.map((row) => row.join())).size, photos.length)
})

test('every format is accepted as a raw body', async () => {
  const formats = {
    'image/jpeg': ['cat.jpg', 'cmyk.jpg', 'grayscale.jpg', 'display-p3.jpg', '6000x4000.jpg'],
    'image/png': ['cat.png', '16-bit.png', 'palette.png', 'alpha.png', '1x1.png'],
    'image/webp': ['cat.webp'],
    'image/avif': ['cat.avif'],
    'image/gif': ['animated.gif'],
    'image/tiff': ['cat.tiff'],
  }
  for (const [type, names] of Object.entries(formats)) {
    for (const name of names) {
      const { tokens } = await encode(fixture(`formats/${name}`), { 'content-type': type })
      assert.equal(tokens[0]?.length, 128, name)
    }
  }
})

test('the content decides the format, not the header', async () => {
  const told = await encode(fixture('formats/cat.webp'), { 'content-type': 'image/webp' })
  assert.deepEqual(await encode(fixture('formats/cat.webp'), { 'content-type': 'image/png' }), told)
})

test('a rotated image with an orientation has the tokens of the upright one', async () => {
  const form = formOf([1, 3, 6, 8].map((orientation) => fixture(`formats/orientation-${orientation}.jpg`)))
  const { tokens } = await encode(form)
  const { tokens: untagged } = await encode(formOf([fixture('formats/cat.jpg')]))
  assert.deepEqual(tokens[0], untagged[0])
  const other = await encode(formOf([fixture('photos/leopard.webp')]))
  // JPEG blocks are placed differently in a rotated image, so its pixels differ slightly, and with them some tokens.
  for (const row of tokens) assert.ok(agreement(row, untagged[0]) > agreement(row, other.tokens[0]))
})

test('a shorter encoding is a prefix of the longest, whether or not a stage ends there', async () => {
  const whole = await encode(formOf(photos))
  for (const length of [1, 17, 32, 40, 64, 100, 127, 128]) {
    const prefix = await encode(formOf(photos), {}, `?length=${length}`)
    assert.equal(prefix.length, length)
    assert.deepEqual(
      prefix.tokens,
      whole.tokens.map((row) => row.slice(0, length)),
    )
  }
})

test('multipart, JSON, raw bodies and NumPy agree', async () => {
  const { tokens } = await encode(formOf(photos))
  assert.deepEqual((await encode(base64(photos), asJson)).tokens, tokens)
  for (const [i, photo] of photos.entries()) {
    assert.deepEqual((await encode(photo, { 'content-type': 'image/webp' })).tokens, [tokens[i]])
  }
  const array = await bytes('POST', '/encode', post(formOf(photos), { accept: 'application/x-npy' }, '?length=48'))
  const { dtype, shape } = parseNpy(array)
  assert.deepEqual([dtype, shape], ['u2', [photos.length, 48]])
  assert.deepEqual(
    integers(parseNpy(array)),
    tokens.flatMap((row) => row.slice(0, 48)),
  )
})

test('an array that numpy wrote has the tokens of its images', async () => {
  const array = fixture('numpy/images-uint8.npy')
  const { tokens } = await encode(array, asNpy)
  assert.equal(tokens.length, 3)
  const again = await bytes('POST', '/encode', post(array, { ...asNpy, accept: 'application/x-npy' }))
  assert.deepEqual(integers(parseNpy(again)), tokens.flat())
})

test('an image has the same tokens alone, in a batch of 32 and among 50 mixed requests', async () => {
  const alone = await Promise.all(photos.map(async (photo) => (await encode(formOf([photo]))).tokens[0]))
  const batch = Array.from({ length: 32 }, (_, i) => photos[(i * 5) % photos.length] as Buffer<ArrayBuffer>)
  const batched = await encode(formOf(batch))
  assert.deepEqual(
    batched.tokens,
    batch.map((photo) => alone[photos.indexOf(photo)]),
  )
  const decoded = (tokens: number[]) =>
    bytes(
      'POST',
      '/decode',
      fetch(`${service.base}/decode`, { method: 'POST', body: JSON.stringify({ tokens }), headers: asJson }),
    )
  const [first = []] = alone
  const picture = await decoded(first)
  await Promise.all(
    Array.from({ length: 50 }, async (_, i) => {
      const own = photos.slice(i % 4, (i % 4) + 1 + (i % 3))
      const expected = own.map((photo) => alone[photos.indexOf(photo)])
      if (i % 5 === 0) assertClose(await pixelsOf(await decoded(first)), await pixelsOf(picture))
      else if (i % 5 === 1) assert.deepEqual((await encode(base64(own), asJson)).tokens, expected)
      else {
        const length = [32, 50, 128][i % 3] as number
        const { tokens } = await encode(formOf(own), {}, `?length=${length}`)
        assert.deepEqual(
          tokens,
          expected.map((row) => row?.slice(0, length)),
        )
      }
    }),
  )
})

test('the answer has its timings', async () => {
  const answer = await post(formOf(photos), {}, '?length=40')
  const timing = answer.headers.get('server-timing') ?? ''
  const steps = [...timing.matchAll(/([\w-]+);dur=[\d.]+/g)].map((match) => match[1]).sort()
  assert.deepEqual(steps, ['encoder', 'mocet-1', 'mocet-2', 'preprocess', 'queue', 'total'])
})

test('an error names the index of a bad image, and other requests are not affected', async () => {
  const bad = [...photos.slice(0, 3), fixture('formats/truncated.jpg')]
  const expected = { status: 422, kind: 'undecodable-image', detail: /^image 3 .*cut off/, item: 3 }
  const [, , good] = await Promise.all([
    refused(expected, post(formOf(bad))),
    refused(expected, post(base64(bad), asJson)),
    encode(formOf(photos)),
  ])
  assert.equal(good.tokens.length, photos.length)
})

test('unsupported files are refused', async () => {
  const undecodable = { status: 422, kind: 'undecodable-image', item: 0 }
  const unsupported = { status: 415, kind: 'unsupported-type' }
  const svg = fixture('formats/drawing.svg')
  await refused({ ...undecodable, detail: /not an image/ }, post(formOf([fixture('formats/text.txt')])))
  await refused({ ...undecodable, detail: /empty/ }, post(formOf([Buffer.alloc(0)])))
  await refused({ ...unsupported, detail: /SVG/, item: 1 }, post(formOf([...photos.slice(0, 1), svg])))
  await refused({ ...unsupported, detail: /SVG/, item: 0 }, post(svg, { 'content-type': 'image/png' }))
  await refused({ ...unsupported, detail: /image\/svg\+xml/ }, post(svg, { 'content-type': 'image/svg+xml' }))
  await refused({ ...unsupported, detail: /text\/plain/ }, post('hello'))
  await refused(
    { ...unsupported, detail: /gzip/ },
    post(svg, { 'content-type': 'image/png', 'content-encoding': 'gzip' }),
  )
})

test('if the content shows the format, the header may be missing or wrong', async () => {
  const png = fixture('formats/cat.png')
  const { tokens } = await encode(png, { 'content-type': 'image/png' })
  for (const type of ['image/jpg', 'image/x-png', 'IMAGE/JPG; x=y', 'application/octet-stream', '']) {
    // fetch sends bytes without a Content-Type by default.
    assert.deepEqual((await encode(png, type === '' ? {} : { 'content-type': type })).tokens, tokens, type)
  }
  await refused({ status: 415, kind: 'unsupported-type', detail: /image 0/, item: 0 }, post(Buffer.from('hello')))
  await refused({ status: 422, kind: 'undecodable-image', detail: /empty/, item: 0 }, post(null))
})

test('Content-Encoding: identity is accepted in upper and lower case', async () => {
  const headers = { 'content-type': 'image/webp' }
  for (const encoding of ['identity', 'Identity', ' IDENTITY ']) {
    await encode(photos[0] as Buffer<ArrayBuffer>, { ...headers, 'content-encoding': encoding })
  }
})

test('base64 may have line breaks or be in a data URL', async () => {
  const photo = photos[0] as Buffer<ArrayBuffer>
  const plain = photo.toString('base64')
  const lines = plain.replaceAll(/.{76}/g, '$&\r\n')
  const images = [plain, lines, `${lines}\n`, `data:image/webp;base64,${plain}`, `DATA:;base64,${lines}`]
  const { tokens } = await encode(JSON.stringify({ images }), asJson)
  for (const row of tokens) assert.deepEqual(row, tokens[0])
  assert.equal(tokens.length, images.length)
  const url = JSON.stringify({ images: [plain, 'data:image/svg+xml,%3Csvg/%3E'] })
  await refused(
    { status: 400, kind: 'malformed', detail: /^image 1 is a data URL that is not/, item: 1 },
    post(url, asJson),
  )
})

test('an unknown query parameter is refused, with the one that was probably meant', async () => {
  for (const [query, detail] of [
    ['?lenght=4', /"lenght"; did you mean length\?/],
    ['?Length=4', /"Length"; did you mean length\?/],
    ['?length=4&x=1', /"x"; this path takes length/],
    ['?constructor=1', /"constructor"/],
  ] as const) {
    await refused({ status: 400, kind: 'malformed', detail }, post(formOf(photos.slice(0, 1)), {}, query))
  }
})

test('malformed bodies', async () => {
  const malformed = { status: 400, kind: 'malformed' }
  const multipart = { 'content-type': 'multipart/form-data; boundary=x' }
  const cases: [RegExp, Promise<Response>, number?][] = [
    [/JSON/, post('{', asJson)],
    [/images/, post('{}', asJson)],
    [/must be an object/, post('null', asJson)],
    [/must not be empty/, post('{"images":[]}', asJson)],
    [/must not have the property "extra"/, post('{"images":["AAAA"],"extra":1}', asJson)],
    [/body\.images\[1\] must be a string/, post('{"images":["AAAA",7]}', asJson), 1],
    [/body\.images\[0\] must be a string/, post('{"images":[null]}', asJson), 0],
    [/image 0 is not base64/, post('{"images":["AA*A"]}', asJson), 0],
    [/image 1 is not base64/, post(JSON.stringify({ images: [photos[0]?.toString('base64'), 'AAA'] }), asJson), 1],
    [/multipart/, post('garbage', multipart)],
    [/multipart/, post('--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nabc', multipart)],
    [/multipart/, post('garbage', { 'content-type': 'multipart/form-data' })],
    [/must not be empty/, post('--x--\r\n', multipart)],
    [/uint8 \[N, 128, 128, 3\].*3, 64, 64, 3/, post(fixture('numpy/images-other-size.npy'), asNpy)],
    [/uint8 \[N, 128, 128, 3\].*f8/, post(fixture('numpy/images-float64.npy'), asNpy)],
    [/not a \.npy/, post(photos[0], asNpy)],
  ]
  for (const [detail, answer, item] of cases)
    await refused({ ...malformed, detail, ...(item !== undefined && { item }) }, answer)
})

test('lengths that the model does not have are refused', async () => {
  for (const length of ['0', '129', '-1', '1.5', 'all', '', '8&length=9']) {
    await refused({ status: 400, kind: 'malformed', detail: /length/ }, post(formOf(photos), {}, `?length=${length}`))
  }
})

test('unsupported answer types are refused', async () => {
  for (const accept of ['image/png', 'text/html', 'application/json;q=0']) {
    await refused({ status: 406, kind: 'not-acceptable', detail: /x-npy/ }, post(formOf(photos), { accept }))
  }
  await encode(formOf(photos), { accept: 'application/x-npy;q=0.2, application/*;q=0.8' })
})

test('media types in Accept match with their parameters', async () => {
  const image = photos[0] as Buffer<ArrayBuffer>
  const answered = async (accept: string) => {
    const answer = await post(image, { 'content-type': 'image/webp', accept }, '?length=1')
    return answer.status === 200 ? answer.headers.get('content-type') : answer.status
  }
  const json = 'application/json; charset=utf-8'
  const npy = 'application/x-npy'
  const cases: [string, string | number][] = [
    ['application/json; charset=utf-8', json],
    ['APPLICATION/JSON;Charset="UTF-8"', json],
    ['application/json;charset=utf-8;q=0.5, application/x-npy;q=0.4', json],
    ['application/json;charset=utf-8;q=0.4, application/x-npy;q=0.5', npy],
    ['application/json;charset=iso-8859-1', 406],
    ['application/json;version=2', 406],
    ['application/json;version=2, */*;q=0.1', json],
    ['application/json;version=2, application/x-npy;q=0.1', npy],
    ['application/json;note="a, b; c", application/x-npy', npy],
    // The more specific range takes precedence.
    ['application/json;charset=utf-8;q=0, application/*', npy],
    ['application/json;q=0, */*', npy],
    ['*/*', json],
    ['', json],
    ['text/html, */*;q=0.8', json],
    ['image/png', 406],
  ]
  for (const [accept, expected] of cases) assert.equal(await answered(accept), expected, accept)
})
