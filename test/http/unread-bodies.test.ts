import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createConnection } from 'node:net'
import { after, before, test } from 'node:test'
import type { Config } from '../../src/config.ts'
import { type Backend, listen, photos, type Service, startBackend } from '../helpers/service.ts'

let backend: Backend

before(async () => {
  backend = await startBackend()
})
after(() => backend.inference.close())

async function serving(settings: Partial<Config>, work: (service: Service) => Promise<void>): Promise<void> {
  const service = await listen(backend, settings)
  try {
    await work(service)
  } finally {
    await service.http.close()
  }
}

/** The answer to a client that sends everything before it reads, and then reads until the connection closes. */
async function sendAll(service: Service, head: string, body: Buffer): Promise<string> {
  const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
  socket.pause()
  socket.write(head)
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.write(body, (error) => (error ? reject(error) : resolve()))
  })
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk)
  return Buffer.concat(chunks).toString('latin1')
}

const large = Buffer.alloc(5_000_000, 1)
const head = (request: string, ...headers: string[]) => [request, 'Host: x', ...headers, '', ''].join('\r\n')
const chunked = (body: Buffer) =>
  Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n0\r\n\r\n')])

test('a refusal reaches a client that is still sending its body, on a connection that closes', () =>
  serving({ apiKey: 'correct-horse' }, async (service) => {
    const key = 'x-api-key: correct-horse'
    const png = 'Content-Type: image/png'
    const closing = ['Connection: close', `Content-Length: ${large.length}`]
    const cases: [number, string, string[]][] = [
      [400, 'POST /encode?length=x HTTP/1.1', [...closing, key, png]],
      [400, 'POST /%zz HTTP/1.1', [...closing, key, png]],
      [400, 'POST /encode HTTP/1.1', [...closing, key, png, 'Host: y']],
      [400, 'POST /encode HTTP/1.1', [...closing, key, png, 'Transfer-Encoding: chunked']],
      [401, 'POST /encode HTTP/1.1', [...closing, png]],
      [404, 'POST /nowhere HTTP/1.1', [...closing, key, png]],
      [404, 'POST /nowhere HTTP/1.0', [`Content-Length: ${large.length}`, key, png]],
      [405, 'PUT /encode HTTP/1.1', [...closing, key, png]],
      [406, 'POST /encode HTTP/1.1', [...closing, key, png, 'Accept: text/html']],
      [415, 'POST /encode HTTP/1.1', [...closing, key, 'Content-Type: text/plain']],
      [415, 'POST /encode HTTP/1.1', [...closing, key, 'Content-Type: text/plain', 'Expect: 100-continue']],
      [431, 'POST /encode HTTP/1.1', [...closing, key, png, `X: ${'a'.repeat(20_000)}`]],
      [200, 'GET /info HTTP/1.1', [...closing, key]],
    ]
    for (const [status, request, headers] of cases) {
      const answer = await sendAll(service, head(request, ...headers), large)
      const what = `${request} ${headers.join(', ').slice(0, 200)}: ${answer.slice(0, 100)}`
      assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), what)
      assert.match(answer, /\r\nconnection: close\r\n/i, what)
      const [, length, body] = /\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n(.*)$/is.exec(answer) ?? []
      assert.equal(body?.length, Number(length), what)
    }
    const unannounced = head(
      'POST /encode HTTP/1.1',
      'Connection: close',
      'Transfer-Encoding: chunked',
      'Content-Type: text/plain',
      key,
    )
    assert.match(await sendAll(service, unannounced, chunked(large)), /^HTTP\/1\.1 415 /)
  }))

test('so does a refusal because of a large body, a full queue or the rate limit', async () => {
  const request = (...headers: string[]) => head('POST /encode HTTP/1.1', 'Connection: close', ...headers)
  const png = request('Content-Type: image/png', `Content-Length: ${large.length}`)
  await serving({ bodyLimit: 1_000_000, jsonBodyLimit: 1000 }, async (service) => {
    assert.match(await sendAll(service, png, large), /^HTTP\/1\.1 413 /)
    for (const type of ['image/png', 'multipart/form-data; boundary=x', 'application/json']) {
      const streamed = request(`Content-Type: ${type}`, 'Transfer-Encoding: chunked')
      assert.match(await sendAll(service, streamed, chunked(large)), /^HTTP\/1\.1 413 /, type)
    }
  })
  await serving({ inflightLimit: 1_000_000 }, async (service) => {
    assert.match(await sendAll(service, png, large), /^HTTP\/1\.1 503 .*\r\nretry-after: \d+\r\n/is)
  })
  await serving({}, async (service) => {
    const all = backend.inference.reserve(4096)
    assert.match(await sendAll(service, png, large), /^HTTP\/1\.1 503 .*\r\nretry-after: \d+\r\n/is)
    all.release()
  })
  await serving({ rateLimit: 1 }, async (service) => {
    await fetch(`${service.base}/info`)
    assert.match(await sendAll(service, png, large), /^HTTP\/1\.1 429 .*\r\nretry-after: \d+\r\n/is)
  })
  backend.inference.reserve(4096).release()
})

test('a connection that stays open serves the next request after a refused body', () =>
  serving({}, async (service) => {
    const first = head('POST /nowhere HTTP/1.1', `Content-Length: ${large.length}`)
    const second = head('GET /health/live HTTP/1.1', 'Connection: close')
    const answers = await sendAll(service, first, Buffer.concat([large, Buffer.from(second)]))
    assert.deepEqual(
      [...answers.matchAll(/HTTP\/1\.1 (\d+) /g)].map((match) => match[1]),
      ['404', '200'],
    )
  }))

test('a client that waits for 100 Continue gets it only if the body is wanted', () =>
  serving({}, async (service) => {
    const photo = photos[0] as Buffer
    const expecting = (type: string) =>
      head('POST /encode HTTP/1.1', `Content-Type: ${type}`, `Content-Length: ${photo.length}`, 'Expect: 100-continue')
    const first = async (type: string, then: (answer: string, write: (bytes: Buffer) => void) => void) => {
      const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
      socket.write(expecting(type))
      for await (const chunk of socket) {
        then(chunk.toString('latin1'), (bytes) => void socket.write(bytes))
        if (/^HTTP\/1\.1 (?!100)/m.test(chunk.toString('latin1'))) break
      }
    }
    const seen: string[] = []
    await first('text/plain', (answer) => seen.push(answer.slice(9, 12)))
    await first('image/webp', (answer, write) => {
      seen.push(answer.slice(9, 12))
      if (answer.startsWith('HTTP/1.1 100')) write(photo)
    })
    assert.deepEqual(seen, ['415', '100', '200'])
  }))

test('a client that stalls in a refused body is disconnected', () =>
  serving({}, async (service) => {
    const start = performance.now()
    const idle = head('POST /nowhere HTTP/1.1', `Content-Length: ${large.length}`)
    assert.match(await sendAll(service, idle, large.subarray(0, 1000)), /^HTTP\/1\.1 404 /)
    assert.ok(performance.now() - start < 20_000)
  }))

test('a request that is refused while it uploads keeps no place in the queue', () =>
  serving({ requestTimeout: 0.3 }, async (service) => {
    const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
    socket.write(head('POST /encode HTTP/1.1', 'Content-Type: image/png', 'Content-Length: 1000'))
    const [answer] = await once(socket, 'data')
    assert.match(String(answer), /^HTTP\/1\.1 504 /)
    backend.inference.reserve(4096).release()
    socket.destroy()
  }))
