import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { type Backend, formOf, listen, photos, startBackend, until } from '../helpers/service.ts'

interface Attribute {
  key: string
  value: { stringValue?: string; intValue?: number }
}
interface Span {
  name: string
  traceId: string
  spanId: string
  parentSpanId?: string
  kind: number
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes: Attribute[]
  status: { code: number }
}
interface Export {
  resourceSpans: { resource: { attributes: Attribute[] }; scopeSpans: { spans: Span[] }[] }[]
}

let backend: Backend
let collector: Server
let endpoint: string
let exports: string[] = []

before(async () => {
  backend = await startBackend()
  collector = createServer(async (request, response) => {
    assert.deepEqual([request.method, request.url], ['POST', '/v1/traces'])
    exports.push(await text(request))
    response.setHeader('content-type', 'application/json').end('{}')
  }).listen(0, '127.0.0.1')
  await once(collector, 'listening')
  endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`
})
after(async () => {
  collector.close()
  await backend.inference.close()
})

/** What the collector received from a service that did `work` and was closed. */
async function spansOf(work: (base: string) => Promise<void>, settings = {}): Promise<Span[]> {
  exports = []
  const service = await listen(backend, { otlpEndpoint: endpoint, ...settings })
  try {
    await work(service.base)
  } finally {
    await service.http.close()
  }
  return exports
    .map((body): Export => JSON.parse(body))
    .flatMap(({ resourceSpans }) => resourceSpans)
    .flatMap(({ scopeSpans }) => scopeSpans)
    .flatMap(({ spans }) => spans)
}

const encode = (base: string, headers: Record<string, string> = {}, images = photos.slice(0, 3)) =>
  fetch(`${base}/encode`, { method: 'POST', body: formOf(images), headers })
const valuesOf = ({ attributes }: Span) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, value.stringValue ?? value.intValue]))

test("an encode's trace continues the client's and has its steps with their times", async () => {
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  const began = Date.now()
  const spans = await spansOf(async (base) => {
    const headers = { traceparent: `00-${traceId}-b7ad6b7169203331-01`, 'x-request-id': 'traced' }
    assert.equal((await encode(base, headers)).status, 200)
    assert.equal((await fetch(`${base}/health/ready`)).status, 200)
  })
  const [request, ...none] = spans.filter(({ kind }) => kind === 2)
  assert.ok(request)
  assert.deepEqual(none, [])
  assert.deepEqual([request.name, request.traceId, request.parentSpanId], ['POST /encode', traceId, 'b7ad6b7169203331'])
  const { 'http.response.status_code': status, 'nativetok.images': images, ...values } = valuesOf(request)
  assert.deepEqual([status, images, values['http.route']], [200, 3, '/encode'])
  assert.equal(values['nativetok.model'], backend.inference.info.modelDigest)

  const steps = new Map(spans.filter((span) => span !== request).map((span) => [span.name, span]))
  const names = ['receive', 'preprocess', 'queue', 'encoder', 'mocet-1', 'mocet-2', 'mocet-3', 'reply']
  assert.deepEqual([...steps.keys()].toSorted(), names.toSorted())
  const at = (name: string) => {
    const { startTimeUnixNano: start, endTimeUnixNano: end } = steps.get(name) as Span
    assert.ok(BigInt(start) <= BigInt(end), name)
    return { start: BigInt(start), end: BigInt(end) }
  }
  const whole = { start: BigInt(request.startTimeUnixNano), end: BigInt(request.endTimeUnixNano) }
  for (const [name, span] of steps) {
    assert.deepEqual([span.traceId, span.parentSpanId], [traceId, request.spanId], name)
    assert.ok(whole.start <= at(name).start && at(name).end <= whole.end, name)
  }
  assert.ok(at('receive').end <= at('preprocess').start)
  // With one image, each step follows the previous one; with several, their first starts do.
  const inOrder = ['preprocess', 'queue', 'encoder', 'mocet-1', 'mocet-2', 'mocet-3', 'reply'].map((name) => at(name))
  for (const [index, { start }] of inOrder.entries()) {
    assert.ok(index === 0 || start >= (inOrder[index - 1]?.start ?? 0n), names[index + 1])
  }
  assert.equal(valuesOf(steps.get('encoder') as Span)['nativetok.items'], 3)
  assert.ok(Number(whole.start / 1_000_000n) >= began - 1000 && Number(whole.end / 1_000_000n) <= Date.now() + 1000)
  assert.equal(backend.lines.find((line) => line.requestId === 'traced' && line.status === 200)?.traceId, traceId)
})

test('a decode has its steps too; refused or failed requests have a trace without steps', async () => {
  const spans = await spansOf(
    async (base) => {
      const headers = { 'content-type': 'application/json', 'x-api-key': 'correct-horse' }
      const decoded = await fetch(`${base}/decode`, { method: 'POST', body: '{"tokens":[1,2,3]}', headers })
      assert.equal(decoded.status, 200)
      assert.equal((await encode(base)).status, 401)
    },
    { apiKey: 'correct-horse' },
  )
  const [decode, refused] = spans.filter(({ kind }) => kind === 2)
  const below = (span: Span | undefined) =>
    spans.filter(({ parentSpanId }) => parentSpanId === span?.spanId).map(({ name }) => name)
  assert.deepEqual(below(decode).toSorted(), ['decoder', 'postprocess', 'queue', 'receive', 'reply'])
  assert.deepEqual(below(refused), [])
  assert.equal(valuesOf(refused as Span)['http.response.status_code'], 401)
  assert.ok(exports.every((body) => !body.includes('correct-horse')))
})

test('a client can choose not to record its trace', async () => {
  const headers = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00' }
  assert.deepEqual(
    await spansOf(async (base) => {
      assert.equal((await encode(base, headers)).status, 200)
    }),
    [],
  )
})

test('a missing collector causes only a warning', async () => {
  const service = await listen(backend, { otlpEndpoint: 'http://127.0.0.1:9' })
  assert.equal((await encode(service.base)).status, 200)
  await service.http.close()
  await until(() => backend.lines.some(({ msg }) => msg === 'traces cannot be sent'))
})
