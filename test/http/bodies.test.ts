import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { writeNpy } from '../../src/formats/npy.ts'
import { conforming, problem } from '../helpers/contract.ts'
import { type Backend, fixture, listen, photos, type Service, startBackend } from '../helpers/service.ts'

let backend: Backend
let service: Service

before(async () => {
  backend = await startBackend()
  service = await listen(backend, { bodyLimit: 2 ** 20, maxImages: 100 })
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

const post = (path: string, body: RequestInit['body'], type: string) =>
  fetch(`${service.base}${path}`, { method: 'POST', body, headers: { 'content-type': type } })
const decode = (json: string) => post('/decode', json, 'application/json')
const malformed = (detail: RegExp) => ({ status: 400, kind: 'malformed', detail })

test("JSON nested deeper than the contract's schemas is refused without parsing", async () => {
  const nested = (depth: number) => `{"tokens":${'['.repeat(depth)}1${']'.repeat(depth)}}`
  await problem({ ...malformed(/must be an integer/), item: 0, position: 0 }, 'POST', '/decode', decode(nested(10)))
  await problem(malformed(/nested deeper/), 'POST', '/decode', decode(nested(100_000)))
  await problem(malformed(/nested deeper/), 'POST', '/decode', decode('{"a":'.repeat(50)))
  await problem(malformed(/nested deeper/), 'POST', '/encode', post('/encode', '['.repeat(500_000), 'application/json'))
})

test('brackets inside strings do not count as nesting', async () => {
  for (const text of ['['.repeat(50), `\\"${'['.repeat(50)}`, `\\\\\\"${'{'.repeat(50)}`]) {
    await problem(malformed(/tokens must be an array/), 'POST', '/decode', decode(`{"tokens":"${text}"}`))
  }
  // The string ends after two backslashes, so these brackets do count.
  await problem(malformed(/nested deeper/), 'POST', '/decode', decode(`{"tokens":["\\\\",${'['.repeat(50)}`))
  await problem(malformed(/JSON/), 'POST', '/decode', decode(`{"tokens":"\\"${'['.repeat(50)}`))
})

test('keys that would reach a prototype are refused, with and without escapes', async () => {
  for (const key of ['__proto__', '\\u005f_proto__']) {
    await problem(malformed(/JSON/), 'POST', '/decode', decode(`{"${key}":{"tokens":[1]}}`))
  }
  await problem(malformed(/JSON/), 'POST', '/decode', decode('{"tokens":[1],"constructor":{"prototype":{}}}'))
  for (const name of ['__proto__', 'constructor', 'toString']) {
    const part = `--x\r\nContent-Disposition: form-data; name="${name}"; filename="a"\r\n\r\nabc\r\n--x--\r\n`
    const answer = post('/encode', part, 'multipart/form-data; boundary=x')
    await problem(malformed(/multipart body/), 'POST', '/encode', answer)
  }
})

test('numbers that are not token ids are refused', async () => {
  for (const number of ['NaN', 'Infinity', '0x10', '01', '1.', '+1', '1e400', '-1e400', '1.5', '1e-5']) {
    await problem(
      { ...malformed(/JSON|integer/), ...(/e400|\.5|e-5/.test(number) && { item: 0 }) },
      'POST',
      '/decode',
      decode(`{"tokens":[${number}]}`),
    )
  }
  const invalid = { status: 422, kind: 'invalid-tokens', detail: /position 0/, item: 0, position: 0 }
  for (const number of ['1e308', '9007199254740993', '-1']) {
    await problem(invalid, 'POST', '/decode', decode(`{"tokens":[${number}]}`))
  }
})

test('text that is not base64 is refused', async () => {
  for (const text of ['\\ud800', '\\u0000', 'A\\u0000AA', '🐈🐈', '====', 'AAA']) {
    const answer = post('/encode', `{"images":["${text}"]}`, 'application/json')
    await problem({ ...malformed(/not base64/), item: 0 }, 'POST', '/encode', answer)
  }
  const notUtf8 = Buffer.from('{"images":["\xff\xfe"]}', 'latin1')
  await problem(
    { ...malformed(/not base64/), item: 0 },
    'POST',
    '/encode',
    post('/encode', notUtf8, 'application/json'),
  )
})

test('an array that announces more items than a request may have is refused before they are read', async () => {
  const expected = { status: 413, kind: 'too-many-images', detail: /more than 100/ }
  const npy = 'application/x-npy'
  for (const shape of [
    [1_000_000, 1],
    [1e15, 0],
    [101, 5, 5],
  ]) {
    const array = writeNpy('|u1', shape, [Buffer.alloc(shape.reduce((a, b) => a * b))])
    for (const path of ['/encode', '/decode']) await problem(expected, 'POST', path, post(path, array, npy))
  }
  const long = writeNpy('|u1', [1_000_000], [Buffer.alloc(1_000_000)])
  await problem(
    { status: 422, kind: 'invalid-tokens', detail: /1000000 tokens/, item: 0 },
    'POST',
    '/decode',
    post('/decode', long, npy),
  )
})

test('bytes between the parts of a multipart body count', async () => {
  const chunk = Buffer.alloc(2 ** 16, 'a')
  // No part ever begins, no length is announced, and the body never ends.
  const endless = new ReadableStream({ pull: (controller) => controller.enqueue(chunk) })
  const headers = { 'content-type': 'multipart/form-data; boundary=x' }
  const init = { method: 'POST', body: endless, headers, duplex: 'half' } as RequestInit
  const expected = { status: 413, kind: 'too-many-bytes', detail: /1048576/ }
  await problem(expected, 'POST', '/encode', fetch(`${service.base}/encode`, init))
})

test('a text field among the images is named in the error', async () => {
  const form = new FormData()
  form.append('images', new Blob([photos[0] as Buffer<ArrayBuffer>]), 'a.webp')
  form.append('caption', 'a plane')
  const answer = fetch(`${service.base}/encode`, { method: 'POST', body: form })
  const detail = /^image 1 \(form field "caption", sent without a file name\)/
  await problem({ status: 422, kind: 'undecodable-image', detail, item: 1 }, 'POST', '/encode', answer)
})

test('a multipart body gives the same rows wherever its chunks end', async () => {
  const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = photos
  const part = (bytes: Buffer) => [
    Buffer.from('--a b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'),
    bytes,
    Buffer.from('\r\n'),
  ]
  const whole = Buffer.concat([...part(first), ...part(second), Buffer.from('--a b--\r\n')])
  const bytewise = new ReadableStream({
    start(controller) {
      for (let at = 0; at < whole.length; at += 3) controller.enqueue(whole.subarray(at, at + 3))
      controller.close()
    },
  })
  const headers = { 'content-type': 'multipart/form-data; boundary="a b"' }
  const init = { method: 'POST', body: bytewise, headers, duplex: 'half' } as RequestInit
  const answer = await fetch(`${service.base}/encode`, init)
  const { tokens } = (await conforming('POST', '/encode', answer)) as { tokens: number[][] }
  assert.equal(tokens.length, 2)
})

test('a body for a route that does not exist is not read', async () => {
  const answer = await post('/nowhere', '{', 'application/json')
  assert.equal(answer.status, 404)
  assert.equal((await fetch(`${service.base}/health/live`)).status, 200)
})

test('a valid request is served after all of these', async () => {
  const answer = await post('/encode', photos[0], 'image/webp')
  await conforming('POST', '/encode', answer)
  assert.equal(answer.status, 200)
  assert.equal((await post('/decode', fixture('numpy/tokens-uint16.npy'), 'application/x-npy')).status, 200)
})
