import assert from 'node:assert/strict'
import { createConnection } from 'node:net'
import { after, before, test } from 'node:test'
import type { Config } from '../../src/config.ts'
import type { components } from '../../src/http/openapi.d.ts'
import { conforming, json, problem } from '../helpers/contract.ts'
import {
  type Backend,
  enginePids,
  fixture,
  formOf,
  listen,
  photos,
  type Service,
  startBackend,
  until,
} from '../helpers/service.ts'

type Tokens = components['schemas']['Tokens']

const queueLimit = 64
const asJson = { 'content-type': 'application/json' }
let backend: Backend

before(async () => {
  // Long enough for a loaded machine, short enough to wait for.
  backend = await startBackend({ queueLimit, timeoutMs: 6000 })
})
after(() => backend.inference.close())

const post = (service: Service, path: string, body: RequestInit['body'], headers: Record<string, string> = {}) =>
  fetch(`${service.base}${path}`, { method: 'POST', body, headers })
/** Sends a body in chunks, without announcing its length. */
function stream(service: Service, body: ReadableStream | FormData, headers: Record<string, string> = {}) {
  const { body: chunks, headers: own } = new Response(body, { headers })
  const type = own.get('content-type') as string
  const init = { method: 'POST', body: chunks, headers: { 'content-type': type }, duplex: 'half' }
  return fetch(`${service.base}/encode`, init as RequestInit)
}

const tokensOf = (service: Service) => json<Tokens>('POST', '/encode', post(service, '/encode', formOf(photos)))
const engine = () => enginePids(backend).at(-1) as number
const depth = async () => {
  const gauge = await backend.metrics.registry.getSingleMetric('nativetok_queue_depth')?.get()
  return gauge?.values.reduce((sum, { value }) => sum + value, 0)
}

/** Starts a request on a stopped engine and waits until the engine has its batch. Later requests then queue. */
async function occupying<T>(request: () => Promise<T>): Promise<{ answer: Promise<T> }> {
  const batches = async () => {
    const sizes = await backend.metrics.registry.getSingleMetric('nativetok_batch_size')?.get()
    const counts = sizes?.values.filter((value) => 'metricName' in value && `${value.metricName}`.endsWith('_count'))
    return counts?.reduce((sum, { value }) => sum + value, 0) ?? 0
  }
  const before = await batches()
  const answer = request()
  await until(async () => (await batches()) > before)
  return { answer }
}

/** Runs `work` on its own service, and checks that nothing stays reserved afterwards. */
async function serving(settings: Partial<Config>, work: (service: Service) => Promise<void>): Promise<void> {
  const service = await listen(backend, settings)
  try {
    await work(service)
  } finally {
    await service.http.close()
  }
  backend.inference.reserve(queueLimit).release()
}

test('too many images are refused in every kind of body', () =>
  serving({ maxImages: 3 }, async (service) => {
    const expected = { status: 413, kind: 'too-many-images', detail: /more than 3/ }
    const four = photos.slice(0, 4)
    await problem(expected, 'POST', '/encode', post(service, '/encode', formOf(four)))
    const images = four.map((photo) => photo.toString('base64'))
    await problem(expected, 'POST', '/encode', post(service, '/encode', JSON.stringify({ images }), asJson))
    // They are counted before any of them is read.
    const broken = JSON.stringify({ images: ['?', '?', '?', '?'] })
    await problem(expected, 'POST', '/encode', post(service, '/encode', broken, asJson))
    await problem(expected, 'POST', '/decode', post(service, '/decode', '{"tokens":[[1],[2],[3],[4]]}', asJson))
    assert.equal((await post(service, '/encode', formOf(photos.slice(0, 3)))).status, 200)
    assert.equal(
      (await post(service, '/encode', fixture('numpy/images-uint8.npy'), { 'content-type': 'application/x-npy' }))
        .status,
      200,
    )
  }))

test('too many bytes are refused, announced or not, in one part or in all together', () =>
  serving({ bodyLimit: 20_000, jsonBodyLimit: 5000 }, async (service) => {
    const expected = { status: 413, kind: 'too-many-bytes', detail: /20000/ }
    const large = fixture('formats/cat.png')
    const png = { 'content-type': 'image/png' }
    await problem(expected, 'POST', '/encode', post(service, '/encode', large, png))
    await problem(expected, 'POST', '/encode', stream(service, new Blob([large]).stream(), png))
    // Each part is within the limit; together they are not.
    assert.ok(photos.every((photo) => photo.length < 15_000))
    const many = formOf([...photos, ...photos, ...photos])
    await problem(expected, 'POST', '/encode', stream(service, many))
    const text = JSON.stringify({ tokens: Array(3000).fill(1) })
    for (const type of ['application/json', 'Application/JSON; charset=utf-8']) {
      const posted = post(service, '/decode', text, { 'content-type': type })
      await problem({ ...expected, detail: /5000/ }, 'POST', '/decode', posted)
    }
    // The connection stays open, and the server keeps running.
    assert.equal((await post(service, '/encode', formOf(photos.slice(0, 1)))).status, 200)
  }))

test('too many pixels are refused', () =>
  serving({ maxPixels: 1_000_000 }, async (service) => {
    const images = [...photos.slice(0, 1), fixture('formats/6000x4000.jpg')]
    const expected = { status: 413, kind: 'too-many-pixels', detail: /^image 1 .*6000 x 4000/, item: 1 }
    await problem(expected, 'POST', '/encode', post(service, '/encode', formOf(images)))
  }))

test('too many bytes in flight are refused', () =>
  serving({ inflightLimit: 20_000 }, async (service) => {
    const expected = { status: 503, kind: 'overloaded', detail: /memory limit/ }
    const large = fixture('formats/cat.png')
    await problem(expected, 'POST', '/encode', post(service, '/encode', large, { 'content-type': 'image/png' }))
    for (let i = 0; i < 5; i++) {
      assert.equal((await post(service, '/encode', formOf(photos.slice(0, 1)))).status, 200)
    }
  }))

test('a full queue refuses at once and admits again when there is room', () =>
  serving({}, async (service) => {
    const expected = { status: 503, kind: 'overloaded', detail: /limit of 64/ }
    const all = backend.inference.reserve(queueLimit)
    await problem(expected, 'POST', '/encode', post(service, '/encode', formOf(photos)))
    await problem(expected, 'POST', '/decode', post(service, '/decode', '{"tokens":[1]}', asJson))
    assert.equal((await fetch(`${service.base}/health/live`)).status, 200)
    all.release()
    const most = backend.inference.reserve(queueLimit - 2)
    assert.equal((await post(service, '/encode', formOf(photos.slice(0, 2)))).status, 200)
    await problem(expected, 'POST', '/encode', post(service, '/encode', formOf(photos.slice(0, 3))))
    await problem(expected, 'POST', '/decode', post(service, '/decode', '{"tokens":[[1],[2],[3]]}', asJson))
    most.release()
    assert.equal((await post(service, '/encode', formOf(photos))).status, 200)
  }))

test('a request past its deadline gets an error, both while it waits and while it uploads', () =>
  serving({ requestTimeout: 0.5 }, async (service) => {
    const expected = { status: 504, kind: 'deadline', detail: /0\.5 s/ }
    process.kill(engine(), 'SIGSTOP')
    try {
      await problem(expected, 'POST', '/encode', post(service, '/encode', formOf(photos)))
      await problem(expected, 'POST', '/decode', post(service, '/decode', '{"tokens":[1]}', asJson))
    } finally {
      process.kill(engine(), 'SIGCONT')
    }
    const head = 'POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nabc'
    const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
    socket.write(head)
    const [answer] = await socket.take(1).toArray()
    assert.match(String(answer), /^HTTP\/1\.1 504 /)
    socket.destroy()
  }))

test('closing a connection removes its images from the queue', () =>
  serving({}, async (service) => {
    await until(async () => (await depth()) === 0)
    process.kill(engine(), 'SIGSTOP')
    try {
      const busy = await occupying(() => post(service, '/encode', formOf(photos.slice(0, 1))))
      const leaving = new AbortController()
      const left = fetch(`${service.base}/encode`, { method: 'POST', body: formOf(photos), signal: leaving.signal })
      await until(async () => ((await depth()) ?? 0) === photos.length)
      leaving.abort()
      await assert.rejects(left, { name: 'AbortError' })
      await until(async () => (await depth()) === 0)
      process.kill(engine(), 'SIGCONT')
      assert.equal((await busy.answer).status, 200)
    } finally {
      process.kill(engine(), 'SIGCONT')
    }
  }))

for (const [fate, signal] of [
  ['killed', 'SIGKILL'],
  ['stalled', 'SIGSTOP'],
] as const) {
  test(`an engine ${fate} during a batch: the server keeps running and the replacement answers`, () =>
    serving({}, async (service) => {
      const expected = await tokensOf(service)
      const pid = engine()
      process.kill(pid, 'SIGSTOP')
      const busy = await occupying(() => tokensOf(service))
      const waiting = [busy.answer, tokensOf(service)]
      await until(async () => ((await depth()) ?? 0) > 0)
      if (signal === 'SIGKILL') process.kill(pid, signal)
      const live = await fetch(`${service.base}/health/live`)
      assert.deepEqual(await conforming('GET', '/health/live', live), { status: 'live' })
      for (const answer of waiting) assert.deepEqual(await answer, expected)
      assert.notEqual(engine(), pid)
      const restarts = await backend.metrics.registry.getSingleMetric('nativetok_engine_restarts_total')?.get()
      const reason = fate === 'killed' ? 'ended' : 'stalled'
      assert.ok(restarts?.values.some(({ labels, value }) => labels.reason === reason && value > 0))
    }))
}
