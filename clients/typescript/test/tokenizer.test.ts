import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { ProblemError, Tokenizer, UnreachableError } from '../src/index.ts'
import { choose, chosen, fixture, photos, Service, until } from './helpers/service.ts'

let service: Service
let tokenizer: Tokenizer
let known: number[][]

before(async () => {
  service = await Service.start()
  tokenizer = await Tokenizer.connect(service.url)
  known = await tokenizer.encode(photos)
})
after(() => service.end())

const prefixes = (rows: number[][], length: number) => rows.map((row) => row.slice(0, length))

test('it says which model it has and what the service takes', async () => {
  const info = await tokenizer.info()
  assert.equal(info.name, 'nativetok-128')
  assert.equal(info.limits.images, 1024)
  assert.deepEqual(info, tokenizer.known)
})

test('bytes, blobs and files have the same tokens, in order', async () => {
  assert.equal(known.length, photos.length)
  assert.equal(new Set(known.map(String)).size, photos.length)
  assert.ok(known.every((row) => row.length === 128))
  const [a, b, c] = photos as [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]
  const mixed = await tokenizer.encode([a, new Blob([b]), new File([c], 'photo.webp')])
  assert.deepEqual(mixed, known.slice(0, 3))
  async function* read() {
    for (const photo of photos) yield photo
  }
  assert.deepEqual(await tokenizer.encode(read(), { length: 5 }), prefixes(known, 5))
  assert.deepEqual(await tokenizer.encode([]), [])
})

test('100,000 tokens come in order', async () => {
  const which = choose(782)
  const seen: number[] = []
  const tokens = await tokenizer.encode(chosen(photos, which), { onProgress: (done) => seen.push(done) })
  assert.ok(tokens.flat().length > 100_000)
  assert.deepEqual(tokens, chosen(known, which))
  assert.equal(seen.length, Math.ceil(782 / 64))
  assert.equal(seen.at(-1), 782)
})

test('rows of different lengths are drawn in order', async () => {
  const rows = known.map((row, i) => row.slice(0, 1 + 3 * i))
  const pictures = await tokenizer.decode(rows)
  assert.equal(pictures.length, rows.length)
  assert.equal(pictures[0]?.type, 'image/png')
  const bytes = async (blob: Blob | undefined) => Buffer.from((await blob?.arrayBuffer()) ?? new ArrayBuffer(0))
  for (const i of [0, 20, 35]) {
    const [alone] = await tokenizer.decode([Uint16Array.from(rows[i] ?? [])])
    assert.deepEqual(await bytes(alone), await bytes(pictures[i]))
  }
  // What it draws of a photo is an image, whose tokens the service knows.
  assert.equal((await tokenizer.encode(pictures, { length: 1 })).length, rows.length)
  const [webp] = await tokenizer.decode(known.slice(0, 1), { format: 'webp', quality: 50 })
  assert.equal(webp?.type, 'image/webp')
  assert.equal((await bytes(webp)).toString('latin1', 8, 12), 'WEBP')
})

test('the codebook is the bundle’s', async () => {
  const { size, dimension, values } = await tokenizer.codebook()
  assert.deepEqual([size, dimension, values.length], [4096, 12, 4096 * 12])
  const norm = Math.hypot(...values.subarray(12, 24))
  assert.ok(Math.abs(norm - 1) < 1e-3, `entries are of length 1, not ${norm}`)
})

test('a wrong image in the middle of a list is named', async () => {
  const images = [...photos, ...photos, ...photos, ...photos]
  images[100] = fixture('formats/truncated.jpg')
  images[130] = fixture('formats/text.txt')
  await assert.rejects(tokenizer.encode(images, { length: 1 }), (error) => {
    assert.ok(error instanceof ProblemError)
    assert.deepEqual([error.item, error.status], [100, 422])
    assert.equal(error.type, 'urn:nativetok:problem:undecodable-image')
    assert.equal(error.problem.item, 36, 'the problem document counts within its request')
    assert.ok(error.problem.requestId)
    assert.match(error.message, /\(item 100 of the list\)/)
    return true
  })
})

test('a wrong token is named by row and position', async () => {
  const rows = [...known, ...known, ...known].map((row) => [...row])
  ;(rows[101] as number[])[5] = 4096
  await assert.rejects(tokenizer.decode(rows), (error) => {
    assert.ok(error instanceof ProblemError)
    assert.deepEqual([error.item, error.problem.position, error.status], [101, 5, 422])
    return true
  })
  await assert.rejects(tokenizer.decode([...known, []]), { item: known.length, status: 422 })
})

test('a length that the model does not have is refused', async () => {
  for (const length of [0, 129, 1.5]) {
    await assert.rejects(tokenizer.encode(photos, { length }), { name: 'RangeError', message: /must be 1 to 128/ })
  }
})

test('an aborted call closes its connections, and the next one works', async () => {
  const gone = () => service.metric('nativetok_errors_total', 'client-gone')
  const before = await gone()
  const signal = AbortSignal.timeout(700)
  const many = chosen(photos, choose(3000))
  await assert.rejects(tokenizer.encode(many, { signal }), { name: 'TimeoutError' })
  await until(async () => (await gone()) > before)
  await until(async () => (await service.metric('nativetok_queue_depth')) === 0)
  assert.deepEqual(await tokenizer.encode(photos.slice(0, 2)), known.slice(0, 2))
  await assert.rejects(tokenizer.encode(photos, { signal }), { name: 'TimeoutError' })
})

test('leaving a stream early ends it', async () => {
  let taken = 0
  function* endless() {
    while (true) yield photos[taken++ % photos.length] as Uint8Array<ArrayBuffer>
  }
  for await (const rows of tokenizer.encodeStream(endless(), { length: 2 })) {
    assert.deepEqual(rows[0], known[0]?.slice(0, 2))
    break
  }
  assert.ok(taken <= 64 * 6, `it read ${taken} images ahead`)
})

test('nobody there is an error at once', async () => {
  const other = await Service.start(['--api-key', 'a-key-that-is-long-enough-for-this', '--engines', '1'])
  for (const apiKey of [undefined, 'wrong']) {
    await assert.rejects(Tokenizer.connect(other.url, { apiKey }), { name: 'ProblemError', status: 401 })
  }
  const keyed = await Tokenizer.connect(`${other.url}/`, { apiKey: 'a-key-that-is-long-enough-for-this' })
  assert.deepEqual(await keyed.encode(photos.slice(0, 1)), known.slice(0, 1))
  await other.end()
  await assert.rejects(Tokenizer.connect(other.url), (error) => {
    assert.ok(error instanceof UnreachableError)
    assert.match(error.message, new RegExp(`${other.url} cannot be reached`))
    return true
  })
})
