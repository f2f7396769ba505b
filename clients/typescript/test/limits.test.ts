import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Tokenizer } from '../src/index.ts'
import { mostItems } from '../src/requests.ts'
import { fixture, photos, Service, small } from './helpers/service.ts'

let service: Service
let full: Service

before(async () => {
  const limits = ['--max-images', '10', '--queue-limit', '24', '--body-limit', '30KiB', '--json-body-limit', '2KiB']
  ;[service, full] = await Promise.all([
    Service.start([...limits, ...small]),
    Service.start(['--queue-limit', '16', '--max-images', '16', ...small]),
  ])
})
after(() => Promise.all([service.end(), full.end()]))

test('lists larger than every limit are cut', async () => {
  const tokenizer = await Tokenizer.connect(service.url, { concurrency: 12 })
  assert.equal(mostItems(tokenizer.known, 12), 2, 'as many as may be in flight fit into the queue')
  const wide = await Tokenizer.connect(service.url, { concurrency: 2 })
  assert.equal(mostItems(wide.known, 2), 10)
  const ten = photos.slice(0, 10).reduce((sum, photo) => sum + photo.length, 0)
  assert.ok(ten > 30 * 1024, 'bytes cut before the number does')
  const tokens = await wide.encode(photos)
  assert.deepEqual(await tokenizer.encode(photos), tokens)
  assert.ok(JSON.stringify(tokens.slice(0, 10)).length > 2048)
  assert.equal((await wide.decode(tokens)).length, photos.length)
  for (const kind of ['too-many-bytes', 'too-many-images']) {
    assert.equal(await service.metric('nativetok_errors_total', kind), 0)
  }
  const large = fixture('formats/6000x4000.jpg')
  assert.ok(large.length > 30 * 1024)
  await assert.rejects(wide.encode([...photos, large, ...photos]), { item: photos.length, status: 413 })
})

test('503 is waited out, and thrown when patience ends', async () => {
  const images = [...photos, ...photos, ...photos]
  // Each fills the queue by itself.
  const clients = await Promise.all([1, 2, 3].map(() => Tokenizer.connect(full.url, { concurrency: 2 })))
  const results = await Promise.all(clients.map((client) => client.encode(images, { length: 8 })))
  assert.ok((await full.metric('nativetok_errors_total', 'overloaded')) > 0, 'the queue was never full')
  assert.equal(results[0]?.length, images.length)
  assert.deepEqual(results[0]?.slice(0, photos.length), results[0]?.slice(photos.length, 2 * photos.length))
  for (const result of results) assert.deepEqual(result, results[0])

  const hasty = await Promise.all([1, 2].map(() => Tokenizer.connect(full.url, { concurrency: 1, patience: 0 })))
  const ends = await Promise.allSettled(hasty.map((client) => client.encode(photos)))
  const refused = ends.filter((end) => end.status === 'rejected').map((end) => end.reason)
  assert.ok(refused.length > 0)
  for (const error of refused) {
    assert.deepEqual([error.status, error.item], [503, undefined])
    assert.equal(error.type, 'urn:nativetok:problem:overloaded')
  }
})
