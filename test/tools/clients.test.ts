import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, beforeEach, test } from 'node:test'
import { promisify } from 'node:util'

interface Seen {
  url: string | undefined
  type: string | undefined
  body: string
}

// Answers like the service, as far as the load generator checks, and records the requests.
const seen: Seen[] = []
let status = 200
let live = 200
let asked = 0
let hangUp = false
const server = createServer(async (request, response) => {
  if (request.method === 'GET') {
    if (request.url === '/health/live') asked++
    response.statusCode = live
    return response.end('nativetok_nodejs_eventloop_lag_p99_seconds 0.0125\n')
  }
  const body = await text(request)
  if (hangUp) return response.socket?.end()
  seen.push({ url: request.url, type: request.headers['content-type'], body })
  const rows = body.split('name="images"').length - 1 || 1
  response.statusCode = request.url?.startsWith('/decode') ? status : 200
  response.end(JSON.stringify({ tokens: Array.from({ length: rows }, () => [7, 8, 9]) }))
})
before(() => once(server.listen(0, '127.0.0.1'), 'listening'))
after(() => server.close())
beforeEach(() => {
  seen.length = 0
  status = 200
  live = 200
  asked = 0
  hangUp = false
})

async function bench(...options: string[]) {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const run = promisify(execFile)(process.execPath, ['tools/clients.ts', '--url', url, '--warm-up', '0', ...options])
  const { stdout } = await run.catch((failed: { stdout: string }) => failed)
  return JSON.parse(stdout) as {
    requests: number
    images: number
    imagesPerSecond: number
    latencyMs: { p50: number | null; p99: number | null }
    errors: Record<string, number>
    health: { p50: number | null; p99: number | null; asked: number; failed: number }
    eventLoopMs: number | null
    cpuMsPerImage: number | null
    memoryMiB: number | null
  }
}

test('every client sends photos one by one until enough are sent', async () => {
  const result = await bench('--clients', '3', '--images', '60', '--length', '32')
  assert.equal(seen.length, 60)
  assert.deepEqual([result.requests, result.images, result.errors], [60, 60, {}])
  assert.ok(seen.every(({ url, type }) => url === '/encode?length=32' && type === 'image/webp'))
  assert.ok(new Set(seen.map(({ body }) => body)).size > 30, 'not always the same photo')
  const { p50, p99 } = result.latencyMs
  assert.ok(p50 !== null && p99 !== null && p50 > 0 && p50 <= p99 && result.imagesPerSecond > 0)
})

test('a batch is one multipart request whose images all count', async () => {
  const result = await bench('--clients', '2', '--images', '32', '--batch', '8')
  assert.deepEqual([result.requests, result.images], [4, 32])
  assert.ok(
    seen.every(({ type, body }) => type?.startsWith('multipart/form-data') && body.split('image/webp').length === 9),
  )
})

test('decode sends the tokens that encode returned', async () => {
  const result = await bench('--clients', '2', '--images', '10', '--route', 'decode')
  const decodes = seen.filter(({ url }) => url === '/decode')
  assert.deepEqual([result.images, decodes.length], [10, 10])
  assert.ok(decodes.every(({ body }) => body === '{"tokens":[7,8,9]}'))
})

test('an answer other than 200 counts as an error with its status, and not as an image', async () => {
  status = 503
  const result = await bench('--clients', '2', '--images', '10', '--route', 'decode')
  assert.deepEqual([result.requests, result.images, result.errors], [0, 0, { 503: 10 }])
  assert.equal(result.latencyMs.p50, null)
})

test('a connection that the server closes without an answer is an error', async () => {
  hangUp = true
  const { requests, errors } = await bench('--clients', '2', '--seconds', '0.3')
  assert.equal(requests, 0)
  assert.deepEqual(Object.keys(errors), ['connection closed without an answer'])
})

test('mix alternates photos and tokens, with the same number of each', async () => {
  const result = await bench('--clients', '2', '--images', '40', '--route', 'mix')
  const measured = seen.slice(-40)
  assert.deepEqual([result.images, measured.filter(({ url }) => url === '/decode').length], [40, 20])
})

test('an unknown route is refused', async () => {
  await assert.rejects(bench('--images', '1', '--route', 'recode'))
})

test("it also requests the server's liveness and event-loop delay", async () => {
  const { health, eventLoopMs } = await bench('--clients', '1', '--seconds', '0.5')
  assert.ok(asked >= 5 && asked === health.asked, `${asked} times in half a second`)
  assert.ok(health.p50 !== null && health.p99 !== null && health.p50 > 0 && health.p50 <= health.p99)
  assert.equal(health.failed, 0)
  assert.ok(eventLoopMs !== null && Math.abs(eventLoopMs - 2.5) < 1e-9, 'without the interval in which Node samples it')
})

test('a server that reports that it is not live fails the probe', async () => {
  live = 503
  const { health, eventLoopMs } = await bench('--clients', '1', '--seconds', '0.2')
  assert.ok(health.failed > 0 && health.failed === health.asked)
  assert.deepEqual([health.p99, eventLoopMs], [null, null])
})

test("the server's processor time and memory are reported if its process is known", async () => {
  const known = await bench('--clients', '8', '--seconds', '0.5', '--pid', `${process.pid}`)
  assert.ok(known.cpuMsPerImage !== null && known.cpuMsPerImage > 0 && known.cpuMsPerImage < 50)
  assert.ok(known.memoryMiB !== null && known.memoryMiB > 20)
  const unknown = await bench('--clients', '1', '--images', '1')
  assert.deepEqual([unknown.cpuMsPerImage, unknown.memoryMiB], [null, null])
})
