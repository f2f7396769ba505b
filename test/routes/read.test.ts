import assert from 'node:assert/strict'
import { createConnection } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { parse } from 'yaml'
import pkg from '../../package.json' with { type: 'json' }
import { parseNpy } from '../../src/formats/npy.ts'
import { readContract } from '../../src/http/contract.ts'
import type { components } from '../../src/http/openapi.d.ts'
import { bytes, json, problem } from '../helpers/contract.ts'
import { type Backend, formOf, listen, photos, type Service, startBackend } from '../helpers/service.ts'

type Info = components['schemas']['Info']

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

const get = (path: string, headers: Record<string, string> = {}) =>
  fetch(`${service.base}${path}`, { headers, redirect: 'manual' })

test("the service has exactly the contract's routes", () => {
  const inContract = Object.entries(readContract().document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  )
  // The files of Swagger UI and the playground, and the HEAD of every GET, are not part of the contract.
  const printed = service.http.printRoutes({ commonPrefix: false }).replace(/^└── \/ \(([^)]*)\)$/m, '    ├──  ($1)')
  const served = [...printed.matchAll(/^ {4}[├└]── (\S*) \(([^)]*)\)$/gm)].flatMap(([, path = '', methods = '']) =>
    methods
      .split(', ')
      .filter((method) => method !== 'HEAD')
      .map((method) => `${method} /${path}`),
  )
  // So it prints /playground/*.
  const offered = served.filter((route) => route !== 'GET /*')
  assert.ok(!service.http.hasRoute({ method: 'GET', url: '/*' }))
  assert.deepEqual(offered.toSorted(), inContract.toSorted())
})

test("the contract is served unchanged, with the package's version", async () => {
  const served = await bytes('GET', '/openapi.yaml', get('/openapi.yaml'))
  assert.equal(served.toString(), readContract().text)
  assert.equal(parse(served.toString()).info.version, pkg.version)
})

test('info shows what is served and the limits', async () => {
  const info = await json<Info>('GET', '/info', get('/info'))
  const { limits, version, model, bundle, ...rest } = info
  assert.deepEqual({ ...rest, modelDigest: model, bundleDigest: bundle }, backend.inference.info)
  assert.equal(version, pkg.version)
  assert.deepEqual([limits.images, limits.queue, limits.bodyBytes], [1024, 4096, 64 * 2 ** 20])
  assert.deepEqual([limits.jsonBodyBytes, limits.pixels, limits.requestSeconds], [8 * 2 ** 20, 50_000_000, 30])
})

test('the codebook is a NumPy array', async () => {
  const { dtype, shape } = parseNpy(await bytes('GET', '/codebook', get('/codebook')))
  assert.deepEqual([dtype, shape], ['f4', [4096, 12]])
})

test('health reports live and ready', async () => {
  assert.deepEqual(await json('GET', '/health/live', get('/health/live')), { status: 'live' })
  assert.deepEqual(await json('GET', '/health/ready', get('/health/ready')), { status: 'ready' })
})

test('the documentation needs nothing from other hosts', async () => {
  const page = (await bytes('GET', '/docs', get('/docs'))).toString()
  const sources = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] as string)
  assert.ok(sources.length > 3)
  for (const source of sources) {
    const file = await fetch(new URL(source, `${service.base}/docs`))
    assert.equal(file.status, 200, source)
    assert.equal(new URL(file.url).host, new URL(service.base).host)
  }
})

test('metrics count the work', async () => {
  await json('POST', '/encode', fetch(`${service.base}/encode`, { method: 'POST', body: formOf(photos) }))
  await get('/nowhere')
  const served = (await bytes('GET', '/metrics', get('/metrics'))).toString()
  const value = (series: string) =>
    Number(new RegExp(`^${series.replaceAll(/[{}]/g, '\\$&')} (\\S+)$`, 'm').exec(served)?.[1])
  assert.equal(value('nativetok_requests_total{route="/encode",method="POST",status="200"}'), 1)
  assert.equal(value('nativetok_images_total{route="encode"}'), photos.length)
  assert.equal(value('nativetok_queue_duration_seconds_count{route="encode"}'), photos.length)
  assert.equal(value('nativetok_step_duration_seconds_count{step="preprocess"}'), photos.length)
  assert.equal(value('nativetok_request_duration_seconds_count{route="/encode"}'), 1)
  assert.equal(value('nativetok_batch_size_sum{kind="encode"}'), photos.length)
  for (const graph of ['encoder', 'mocet-1', 'mocet-2', 'mocet-3']) {
    assert.ok(value(`nativetok_graph_duration_seconds_count{graph="${graph}"}`) >= 1, graph)
  }
  assert.equal(value('nativetok_queue_depth{kind="encode"}'), 0)
  assert.deepEqual([value('nativetok_queue_limit'), value('nativetok_body_bytes_limit')], [4096, 512 * 2 ** 20])
  assert.deepEqual([value('nativetok_ready'), value('nativetok_draining'), value('nativetok_body_bytes')], [1, 0, 0])
  const { name, modelDigest: model, bundleDigest: bundle, provider } = backend.inference.info
  const labels = Object.entries({ version: pkg.version, name, model, bundle, provider })
  assert.equal(value(`nativetok_build_info{${labels.map(([label, text]) => `${label}="${text}"`)}}`), 1)
  assert.ok(value('nativetok_errors_total{kind="not-found"}') >= 1)
  assert.ok(value('nativetok_nodejs_eventloop_lag_p99_seconds') >= 0)
})

test('a valid request id appears in the answer and in the log', async () => {
  const id = 'generator-7.step:42'
  assert.equal((await get('/info', { 'x-request-id': id })).headers.get('x-request-id'), id)
  assert.ok(backend.lines.some((line) => line.requestId === id && line.status === 200))
  const made = (await get('/info', { 'x-request-id': 'a b' })).headers.get('x-request-id')
  assert.match(made ?? '', /^[0-9a-f-]{36}$/)
})

test('unknown paths are answered with a problem', async () => {
  const answer = await get('/nowhere')
  const body = (await answer.json()) as components['schemas']['Problem']
  assert.deepEqual([answer.status, body.type], [404, 'urn:nativetok:problem:not-found'])
  assert.equal(answer.headers.get('x-request-id'), body.requestId)
  const undecodable = await get('/%zz')
  assert.deepEqual(
    [undecodable.status, undecodable.headers.get('content-type')?.split(';')[0]],
    [400, 'application/problem+json'],
  )
})

test('bytes that are not HTTP are answered with a problem with an id', async () => {
  const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
  socket.write('HELLO\r\n\r\n')
  const answer = await text(socket)
  assert.match(answer, /^HTTP\/1\.1 400 /)
  assert.match(answer, /X-Request-Id: [0-9a-f-]{36}\r\n/)
  assert.match(answer, /urn:nativetok:problem:malformed/)
})

test('the model needs an API key; health, metrics and documentation do not', async () => {
  const apiKey = 'correct-horse'
  const guarded = await listen(backend, { apiKey })
  const read = (path: string, headers = {}) => fetch(`${guarded.base}${path}`, { headers, redirect: 'manual' })
  const refusedAt = (method: string, path: string, answer: Promise<Response>) =>
    problem({ status: 401, kind: 'unauthorized', detail: /x-api-key/ }, method, path, answer)
  try {
    for (const path of ['/info', '/codebook']) {
      await refusedAt('GET', path, read(path))
      await refusedAt('GET', path, read(path, { 'x-api-key': 'wrong' }))
      await refusedAt('GET', path, read(path, { authorization: `Basic ${apiKey}` }))
      assert.equal((await read(path, { 'x-api-key': apiKey })).status, 200)
      assert.equal((await read(path, { authorization: `Bearer ${apiKey}` })).status, 200)
    }
    for (const path of ['/encode', '/decode']) {
      await refusedAt('POST', path, fetch(`${guarded.base}${path}`, { method: 'POST', body: formOf(photos) }))
    }
    for (const path of ['/health/live', '/health/ready', '/metrics', '/docs', '/openapi.yaml']) {
      assert.equal((await read(path)).status, 200, path)
    }
  } finally {
    await guarded.http.close()
  }
})
