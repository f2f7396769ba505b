import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Tokenizer } from '../src/index.ts'
import { retryAfter } from '../src/service.ts'
import { photos, Service, small } from './helpers/service.ts'

let service: Service

before(async () => {
  service = await Service.start(['--rate-limit', '3', ...small])
})
after(() => service.end())

test('429 is waited out as long as the service says', async () => {
  const tokenizer = await Tokenizer.connect(service.url)
  const [first] = await tokenizer.encode(photos.slice(0, 1), { length: 4 })
  await tokenizer.encode(photos.slice(0, 1), { length: 4 })
  const start = Date.now()
  await assert.rejects(Tokenizer.connect(service.url, { patience: 0 }), {
    status: 429,
    type: 'urn:nativetok:problem:rate-limited',
  })
  // A call that is aborted while it waits ends at once.
  const signal = AbortSignal.timeout(500)
  await assert.rejects(tokenizer.encode(photos, { signal }), { name: 'TimeoutError' })
  assert.ok(Date.now() - start < 10_000)
  const tokens = await tokenizer.encode(photos.slice(0, 2), { length: 4 })
  assert.deepEqual(tokens[0], first)
  assert.ok(Date.now() - start > 30_000)
  const refusals = await service.metric('nativetok_errors_total', 'rate-limited')
  assert.equal(refusals, 2, 'it asked again before the time that it was told')
})

test('Retry-After is read in both its forms', () => {
  assert.equal(retryAfter('7'), 7000)
  const date = retryAfter(new Date(Date.now() + 9000).toUTCString())
  assert.ok(date > 7000 && date < 9100)
  assert.equal(retryAfter('Mon, 01 Jan 2024 00:00:00 GMT'), 0)
  assert.equal(retryAfter(null), 1000)
  assert.equal(retryAfter('soon'), 1000)
})
