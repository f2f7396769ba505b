import assert from 'node:assert/strict'
import { request as send } from 'node:http'
import { after, before, test } from 'node:test'
import { problem } from '../helpers/contract.ts'
import { type Backend, listen, photos, type Service, startBackend } from '../helpers/service.ts'

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

const disposition = 'Content-Disposition: form-data; name="images"; filename="a"'
// latin1 keeps bytes as they are.
const [a, b] = photos.slice(0, 2).map((photo) => photo.toString('latin1')) as [string, string]
const part = (content: string, headers = disposition) => `${headers}\r\n\r\n${content}`
const two = (first: string, last = '--X--\r\n') => `${first}\r\n${part(a)}\r\n--X\r\n${part(b)}\r\n${last}`

/** Posts a body in pieces of this many bytes, so that delimiters are split at every position. */
async function post(body: string, type = 'multipart/form-data; boundary=X', piece = 1 << 16): Promise<Response> {
  const bytes = Buffer.from(body, 'latin1')
  const chunks = Array.from({ length: Math.ceil(bytes.length / piece) }, (_, i) =>
    bytes.subarray(i * piece, (i + 1) * piece),
  )
  const { promise, resolve, reject } = Promise.withResolvers<Response>()
  const request = send(`${service.base}/encode?length=8`, { method: 'POST', headers: { 'content-type': type } })
  request.on('error', reject).on('response', async (answer) => {
    const headers = Object.entries(answer.headers).map(([name, value]) => [name, String(value)] as [string, string])
    resolve(new Response(Buffer.concat(await answer.toArray()), { status: answer.statusCode ?? 0, headers }))
  })
  for (const chunk of chunks) request.write(chunk)
  request.end()
  return promise
}

const rowsOf = async (answer: Promise<Response>) => {
  const { tokens } = (await (await answer).json()) as { tokens: number[][] }
  return tokens
}

test('there are as many rows as parts, whatever is around them', async () => {
  const expected = await rowsOf(post(two('--X')))
  assert.equal(expected.length, 2)
  assert.notDeepEqual(expected[0], expected[1])
  const bodies = [
    two('a preamble\r\n--X'),
    two('\r\n--X'),
    two('--X', '--X--'),
    two('--X', '--X--\n'),
    two('--X', '--X--\r\nan epilogue\r\n-- X\r\n'),
  ]
  for (const body of bodies) assert.deepEqual(await rowsOf(post(body)), expected, JSON.stringify(body.slice(0, 40)))
})

test('delimiters are recognised wherever the network splits them', async () => {
  const expected = await rowsOf(post(two('--X')))
  for (const piece of [1, 2, 3, 7]) {
    const short = `--X\r\n${part(a.slice(0, 40))}\r\n--X \r\n${part(b)}\r\n--X--`
    const refused = { status: 400, kind: 'malformed', detail: /does not end there/ } as const
    await problem(refused, 'POST', '/encode', post(short, undefined, piece))
  }
  for (const piece of [97, 1021]) assert.deepEqual(await rowsOf(post(two('--X'), undefined, piece)), expected)
})

test('quoted boundaries are read', async () => {
  const expected = await rowsOf(post(two('--X')))
  for (const type of ['boundary="X"', 'Boundary=X ', 'charset=utf-8 ; boundary=X', 'boundary=X;']) {
    assert.deepEqual(await rowsOf(post(two('--X'), `multipart/form-data; ${type}`)), expected, type)
  }
})

test('bodies that two parsers could split differently are refused', async () => {
  const refused: [string, RegExp][] = [
    ['', /cut off/],
    ['garbage', /nexpected end|cut off/],
    [`--X\r\n${part('a')}`, /nexpected end|cut off/],
    [`--X\r\n${part('a')}\r\n--X\r\n`, /nexpected end|cut off/],
    [two('--X '), /does not end there/],
    [two('--X \t '), /does not end there/],
    [`--X\r\n${part(a)}\r\n--X \r\n${part(b)}\r\n--X--\r\n`, /does not end there/],
    [two('--X').replaceAll('\r\n', '\n'), /CR and LF/],
    [`--X\r\n${part('a\n--X\nb')}\r\n--X--`, /CR and LF/],
    [`--X\r\n${part('a\r--X\rb')}\r\n--X--`, /CR and LF/],
    [`--X\r\n${part('a')}\r\n--Xy\r\n${part('b')}\r\n--X--`, /does not end there/],
    [`--X\r\n${part('a')}\r\n--X-y\r\n${part('b')}\r\n--X--`, /does not end there/],
    [`${two('--X')}--X\r\n${part('c')}\r\n--X--\r\n`, /after its end/],
    ['--X\r\n--X--\r\n', /1 parts begin and 0/],
    [`--X\r\n${part('a', 'Content-Type: image/png')}\r\n--X--`, /1 parts begin and 0/],
    [`--X\r\n\r\na\r\n--X--`, /1 parts begin and 0/],
    [`--X\r\n${part('a', 'Content-Disposition: attachment; name="a"')}\r\n--X--`, /1 parts begin and 0/],
  ]
  for (const [body, detail] of refused) {
    const answer = post(body)
    assert.equal((await answer).status, 400, JSON.stringify(body.slice(0, 60)))
    await problem({ status: 400, kind: 'malformed', detail }, 'POST', '/encode', answer)
  }
  for (const parameters of ['', '; boundary=', '; boundary=""', '; boundary=X; boundary=Y']) {
    const answer = post(two('--X'), `multipart/form-data${parameters}`)
    await problem({ status: 400, kind: 'malformed', detail: /boundary/i }, 'POST', '/encode', answer)
  }
})
