import assert from 'node:assert/strict'
import { createConnection } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import type { components } from '../../src/http/openapi.d.ts'
import { type Backend, listen, type Service, startBackend } from '../helpers/service.ts'

type Problem = components['schemas']['Problem']

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

/** Everything a server answers to these bytes until it closes the connection. */
function send(bytes: string): Promise<string> {
  const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
  socket.write(bytes)
  return text(socket)
}

test('an unsupported method is refused with a list of the supported ones', async () => {
  for (const [method, path, allow] of [
    ['GET', '/encode', 'POST'],
    ['OPTIONS', '/decode', 'POST'],
    ['POST', '/info', 'GET, HEAD'],
    ['DELETE', '/', 'GET, HEAD'],
    ['PROPFIND', '/health/live?x=1', 'GET, HEAD'],
  ] as const) {
    const answer = await fetch(`${service.base}${path}`, { method })
    const body = (await answer.json()) as Problem
    assert.deepEqual([answer.status, body.type], [405, 'urn:nativetok:problem:method-not-allowed'])
    assert.equal(answer.headers.get('allow'), allow)
    assert.equal(answer.headers.get('x-request-id'), body.requestId)
  }
  const head = await fetch(`${service.base}/encode`, { method: 'HEAD' })
  assert.deepEqual([head.status, head.headers.get('allow'), await head.text()], [405, 'POST', ''])
})

test('an unknown path is 404, whatever the method and the body', async () => {
  for (const [method, path] of [
    ['POST', '/nowhere'],
    ['GET', '/docs/static/nowhere.js'],
    ['GET', '/constructor'],
  ] as const) {
    const answer = await fetch(`${service.base}${path}`, { method, ...(method === 'POST' && { body: '{' }) })
    assert.deepEqual([answer.status, ((await answer.json()) as Problem).status], [404, 404], path)
  }
})

test('headers that are too large are refused', async () => {
  const answer = await send(`GET /info HTTP/1.1\r\nHost: x\r\nX: ${'a'.repeat(20_000)}\r\n\r\n`)
  assert.match(answer, /^HTTP\/1\.1 431 Request Header Fields Too Large\r\n/)
  assert.match(answer, /urn:nativetok:problem:headers-too-large/)
})

test('ambiguous requests are refused', async () => {
  const json = 'Content-Type: application/json\r\nConnection: close\r\n'
  const chunked = '\r\ne\r\n{"tokens":[1]}\r\n0\r\n\r\n'
  const cases: [string, RegExp][] = [
    [`GET /info HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n`, /^HTTP\/1\.1 400 .*more than one Host/s],
    [
      `POST /decode HTTP/1.1\r\nHost: x\r\n${json}Transfer-Encoding: gzip, chunked\r\n${chunked}`,
      /^HTTP\/1\.1 415 .*gzip/s,
    ],
    [
      `POST /decode HTTP/1.1\r\nHost: x\r\n${json}Content-Length: 14\r\nTransfer-Encoding: chunked\r\n${chunked}`,
      /^HTTP\/1\.1 400 /,
    ],
    [
      `POST /decode HTTP/1.1\r\nHost: x\r\n${json}Content-Length: 14\r\nContent-Length: 5\r\n\r\n{"tokens":[1]}`,
      /^HTTP\/1\.1 400 /,
    ],
    [`POST /decode HTTP/1.1\r\nHost: x\r\n${json}Transfer-Encoding: Chunked\r\n${chunked}`, /^HTTP\/1\.1 200 /],
  ]
  for (const [request, expected] of cases) assert.match(await send(request), expected)
})
