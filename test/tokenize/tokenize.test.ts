import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import sharp from 'sharp'
import { decodeImage } from '../../src/formats/decode-image.ts'
import { treeOf } from '../../tools/process-tree.ts'
import { Service } from '../../tools/service.ts'
import { tinyBundle } from '../helpers/bundle.ts'
import { type Backend, listen, startBackend, until } from '../helpers/service.ts'
import { digests, makeFolder, photoFolder, readJson, start, tokenize, tokensOf } from './support.ts'

let backend: Backend
let folder: string
/** Full-size photos in two classes, with their keys in order. */
let photos: string
const keys = ['animals/cat', 'animals/hen', 'things/drum', 'things/turbine']

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tokenize-'))
  photos = join(folder, 'photos')
  const full = (await readdir(join(photoFolder, 'full'))).filter((name) => name.endsWith('.jpg')).sort()
  for (const [i, key] of keys.entries()) {
    await mkdir(join(photos, key, '..'), { recursive: true })
    await copyFile(join(photoFolder, 'full', full[i] as string), join(photos, `${key}.jpg`))
  }
  backend = await startBackend()
})
after(async () => {
  await backend.inference.close()
  await rm(folder, { recursive: true })
})

const out = (name: string) => join(folder, name)
const read = (key: string) => readFile(join(photos, `${key}.jpg`))

async function encode(pixels: Uint8Array): Promise<number[]> {
  const { tokens } = await backend.inference.encode(pixels, 128)
  return Array.from(tokens)
}

async function preparedPhoto(key: string): Promise<Buffer> {
  return decodeImage(await read(key), { ...backend.inference.info.image, maxPixels: 5e7 })
}

test('tokens of photos are those that the service gives, with keys, labels and a manifest', async () => {
  const { status, stderr } = await tokenize([photos, '--out', out('centre')])
  assert.equal(status, 0, stderr)
  assert.match(stderr, /4 images, 0 failed, [\d.]+ images\/s/)
  const expected = await Promise.all(keys.map(async (key) => encode(await preparedPhoto(key))))
  assert.deepEqual(await tokensOf(out('centre')), expected)
  assert.equal(await readFile(join(out('centre'), 'keys.txt'), 'utf8'), `${keys.join('\n')}\n`)
  const { base, http } = await listen(backend)
  const body = await read(keys[0] as string)
  const answer = await fetch(`${base}/encode`, { method: 'POST', body, headers: { 'content-type': 'image/jpeg' } })
  assert.deepEqual(((await answer.json()) as { tokens: number[][] }).tokens[0], expected[0])
  await http.close()
  const manifest = (await readJson(join(out('centre'), 'tokens.json'))) as Record<string, unknown>
  const { modelDigest, bundleDigest } = backend.inference.info
  assert.deepEqual(manifest.model, {
    ...{ name: 'nativetok-128', digest: modelDigest, bundle: bundleDigest, imageSize: 128, codebookSize: 4096 },
  })
  assert.deepEqual(manifest.classes, ['animals', 'things'])
  assert.deepEqual(manifest.counts, { images: 4, rows: 4, errors: 0, labels: 2 })
  assert.equal(manifest.provider, 'cpu')
  const files = manifest.files as { path: string; sha256: string }[]
  const { 'tokens.json': _, ...digestOf } = await digests(out('centre'))
  assert.deepEqual(Object.fromEntries(files.map(({ path, sha256 }) => [path, sha256])), digestOf)
})

test('a mirrored view follows the image; a shorter length is a prefix', async () => {
  assert.equal((await tokenize([photos, '--out', out('flip'), '--flip', '--length', '40'])).status, 0)
  const expected: number[][] = []
  for (const key of keys) {
    const pixels = await preparedPhoto(key)
    const mirrored = await sharp(pixels, { raw: { width: 128, height: 128, channels: 3 } })
      .flop()
      .raw()
      .toBuffer()
    for (const view of [pixels, mirrored]) expected.push((await encode(view)).slice(0, 40))
  }
  assert.deepEqual(await tokensOf(out('flip')), expected)
})

test('ten crops are ten rows per image, encoded as they were cut', async () => {
  assert.equal((await tokenize([photos, '--out', out('ten'), '--crops', 'ten'])).status, 0)
  const square = await decodeImage(await read(keys[2] as string), {
    ...{ size: 140, kernel: 'bicubic', longerSide: 'half-even', cropOffset: 'floor', halveFirst: true, maxPixels: 5e7 },
  })
  const cut = (left: number, top: number, mirror: boolean) => {
    const whole = sharp(square, { raw: { width: 140, height: 140, channels: 3 } })
    const image = mirror ? whole.flop() : whole
    // sharp mirrors after it cuts.
    const from = mirror ? 140 - 128 - left : left
    return image.extract({ left: from, top, width: 128, height: 128 }).raw().toBuffer()
  }
  const places = [
    [0, 0],
    [12, 0],
    [0, 12],
    [12, 12],
    [6, 6],
  ] as [number, number][]
  const views = [false, true].flatMap((mirror) => places.map(([left, top]) => cut(left, top, mirror)))
  const expected = await Promise.all(views.map(async (view) => encode(await view)))
  assert.deepEqual((await tokensOf(out('ten'))).slice(20, 30), expected)
})

test('the same data set as tars gives the same tokens', async () => {
  const [tar, plain] = [join(folder, 'tar'), join(folder, 'six')]
  const datasets = join(import.meta.dirname, '../fixtures/datasets')
  assert.equal((await tokenize([join(datasets, 'photos-{000000..000001}.tar'), '--out', tar])).status, 0)
  assert.equal((await tokenize([join(datasets, 'datasets.parquet'), '--out', plain])).status, 0)
  assert.deepEqual(await tokensOf(tar), await tokensOf(plain))
  assert.deepEqual((await digests(tar))['labels.npy'], (await digests(plain))['labels.npy'])
})

test('images that fail are listed with their reasons, and the others go on', async () => {
  const input = join(folder, 'broken')
  await mkdir(input)
  for (const [to, from] of [
    ['a.jpg', 'full/cat.jpg'],
    ['b.jpg', '../formats/truncated.jpg'],
    ['c.png', '../formats/text.txt'],
    ['d.jpg', 'full/drum.jpg'],
    ['e.jpg', '../formats/6000x4000.jpg'],
  ] as const) {
    await copyFile(join(photoFolder, from), join(input, to))
  }
  const args = [input, '--max-pixels', '1000000']
  const { status, stderr } = await tokenize([...args, '--out', out('broken-out')])
  assert.equal(status, 3, stderr)
  const lines = (await readFile(join(out('broken-out'), 'errors.jsonl'), 'utf8')).trim().split('\n')
  const failures = lines.map((line) => JSON.parse(line) as { index: number; key: string; reason: string })
  assert.deepEqual(
    failures.map(({ index, key }) => [index, key]),
    [
      [1, 'b'],
      [2, 'c'],
      [4, 'e'],
    ],
  )
  for (const [i, reason] of [/damaged or cut off/, /not an image/, /too many pixels: 6000 x 4000/].entries()) {
    assert.match(failures[i]?.reason ?? '', reason)
  }
  assert.equal(await readFile(join(out('broken-out'), 'keys.txt'), 'utf8'), 'a\nd\n')
  const { counts } = await readJson(join(out('broken-out'), 'tokens.json'))
  assert.deepEqual(counts, { images: 5, rows: 2, errors: 3, labels: 0 })

  const strict = await tokenize([...args, '--out', out('strict'), '--strict'])
  assert.equal(strict.status, 1)
  assert.match(strict.stderr, /^nativetok tokenize: image 1 \(b\) cannot be decoded; it is damaged or cut off$/m)
  assert.equal(existsSync(join(out('strict'), 'tokens.json')), false)
  // Once the image is repaired, the same command goes on; without --strict, it would as well.
  await copyFile(join(photoFolder, 'full/drum.jpg'), join(input, 'b.jpg'))
  assert.equal((await tokenize([...args, '--out', out('strict')])).status, 3)
  assert.equal(await readFile(join(out('strict'), 'keys.txt'), 'utf8'), 'a\nb\nd\n')
})

test('a finished output stays as it is, and another command is refused there', async () => {
  const before = await digests(out('centre'))
  const again = await tokenize([photos, '--out', out('centre')])
  assert.equal(again.status, 0)
  assert.match(again.stderr, /is finished: 4 images/)
  for (const [args, difference] of [
    [[photos, '--flip'], /was begun without --flip:/],
    [[photos, '--length', '32'], /was begun with --length 128, not 32/],
    [[photos, '--format', 'jsonl'], /--format npy, not jsonl/],
    [[photos, '--part', '0/2'], /--part 0\/1, not 0\/2/],
    [[photos, '--labels', 'none'], /was begun with labels:/],
    [[join(photos, 'animals')], /the listing of the input, or of its labels, has changed since .* was begun/],
  ] as const) {
    const { status, stderr } = await tokenize([...args, '--out', out('centre')])
    assert.equal(status, 2, stderr)
    assert.match(stderr, difference)
  }
  assert.deepEqual(await digests(out('centre')), before)
  await mkdir(out('full'))
  await writeFile(join(out('full'), 'thesis.txt'), 'mine')
  const { status, stderr } = await tokenize([photos, '--out', out('full')])
  assert.equal(status, 2)
  assert.match(stderr, /is not empty: it holds thesis.txt/)
  assert.deepEqual(await readdir(out('full')), ['thesis.txt'])
})

test('what a model or a format cannot do is refused before anything is written', async () => {
  for (const [args, message] of [
    [[photos, '--length', '129'], /--length 129: nativetok-128 makes 1 to 128 tokens/],
    [[photos, '--model', tinyBundle('parallel'), '--length', '3'], /parallel makes exactly 4 tokens/],
    [[photos, '--format', 'randar', '--labels', 'none'], /label/],
    [[join(folder, 'nowhere')], /nowhere cannot be read/],
    [[photos, '--url', 'http://127.0.0.1:9'], /127.0.0.1:9 does not answer GET \/info/],
    [[photos, '--model', folder], /manifest.json: cannot be read/],
    [[photos, '--format', 'csv'], /--format.*one of llamagen/],
  ] as const) {
    const { status, stderr } = await tokenize([...args, '--out', out('never')])
    assert.equal(status, 2, stderr)
    assert.match(stderr, message)
    assert.equal(stderr.trim().split('\n').length, 1, stderr)
  }
  assert.equal(existsSync(out('never')), false)
})

test('a second run is refused while the first one writes, and a killed one holds nothing up', async () => {
  const input = await makeFolder(join(folder, 'many'), 600)
  const args = [input, '--out', out('locked'), '--model', tinyBundle('parallel')]
  const first = start(args)
  const lock = join(out('locked'), '.tokenize/lock')
  await until(() => existsSync(lock))
  first.process.kill('SIGSTOP')
  const second = await tokenize(args)
  assert.equal(second.status, 1)
  assert.match(second.stderr, new RegExp(`another run is writing there: process ${first.process.pid} on ${hostname()}`))
  first.process.kill('SIGKILL')
  await first.ended
  assert.ok(existsSync(lock))
  // The lock of a run on another machine holds as long as it is touched.
  await writeFile(lock, JSON.stringify({ host: 'elsewhere', pid: 1 }))
  const third = await tokenize(args)
  assert.match(third.stderr, /process 1 on elsewhere/)
  const long = new Date(Date.now() - 120_000)
  await utimes(lock, long, long)
  assert.equal((await tokenize(args)).status, 0)
  assert.equal(existsSync(join(out('locked'), '.tokenize')), false)
})

test('parts together are the whole', async () => {
  const input = join(folder, 'many')
  await tokenize([input, '--out', out('part-0'), '--part', '0/2', '--model', tinyBundle('parallel')])
  await tokenize([input, '--out', out('part-1'), '--part', '1/2', '--model', tinyBundle('parallel')])
  await tokenize([input, '--out', out('whole'), '--model', tinyBundle('parallel')])
  assert.deepEqual(
    [...(await tokensOf(out('part-0'))), ...(await tokensOf(out('part-1')))],
    await tokensOf(out('whole')),
  )
})

test('an engine that dies is replaced, and nothing is lost', async () => {
  const run = start([join(folder, 'many'), '--out', out('crashed'), '--model', tinyBundle('parallel')])
  await until(() => existsSync(join(out('crashed'), '.tokenize/journal.json')))
  const [, engine] = await treeOf(run.process.pid as number)
  process.kill(engine as number, 'SIGKILL')
  const { status, stderr } = await run.ended
  assert.equal(status, 0, stderr)
  assert.match(stderr, /engine ended, starting a replacement/)
  assert.deepEqual(await tokensOf(out('crashed')), await tokensOf(out('whole')))
})

test('services give the same tokens, also when they are killed on the way', async () => {
  const flags = ['--model', tinyBundle('parallel'), '--engines', '1', '--max-batch', '8', '--drain-delay', '0']
  const [a, b] = await Promise.all([Service.start({ flags }), Service.start({ flags })])
  const port = Number(new URL(a.url).port)
  let again: Service | undefined
  try {
    const run = start([join(folder, 'many'), '--out', out('remote'), '--url', `${a.url},${b.url}/`])
    await until(async () => (await b.metric('nativetok_images_total')) > 0)
    await b.kill()
    const before = await a.metric('nativetok_images_total')
    await until(async () => (await a.metric('nativetok_images_total')) > before)
    await a.kill()
    again = await Service.start({ flags, port })
    const { status, stderr } = await run.ended
    assert.equal(status, 0, stderr)
    for (const { url } of [a, b]) assert.match(stderr, new RegExp(`${url} does not answer \\(.*\\); trying again`))
  } finally {
    await again?.stop()
  }
  assert.deepEqual(await tokensOf(out('remote')), await tokensOf(out('whole')))
  const manifests = await Promise.all(['remote', 'whole'].map((name) => readJson(join(out(name), 'tokens.json'))))
  const [remote, embedded] = manifests.map((manifest) => ({ ...manifest, command: '' }))
  assert.deepEqual(remote, embedded)
})

test('services of different models are refused, a key is sent, and a full service is asked again', async () => {
  const env = { NATIVETOK_API_KEY: 'secret' }
  const few = ['--max-batch', '8', '--max-images', '8', '--queue-limit', '8']
  const [other, keyed] = await Promise.all([
    Service.start({ flags: ['--model', tinyBundle('state'), '--engines', '1'] }),
    Service.start({ flags: ['--model', tinyBundle('parallel'), '--engines', '1', ...few], env }),
  ])
  try {
    const mixed = await tokenize([photos, '--out', out('mixed'), '--url', `${keyed.url},${other.url}`], { env })
    assert.equal(mixed.status, 2, mixed.stderr)
    assert.match(mixed.stderr, /serve different models/)
    const unkeyed = await tokenize([photos, '--out', out('mixed'), '--url', keyed.url])
    assert.equal(unkeyed.status, 2)
    assert.match(unkeyed.stderr, /does not answer GET \/info as a service does \(401/)
    assert.equal(existsSync(out('mixed')), false)
    const full = await tokenize([join(folder, 'many'), '--out', out('keyed'), '--url', keyed.url], { env })
    assert.equal(full.status, 0, full.stderr)
    assert.match(full.stderr, /answers 503; trying again/)
    assert.deepEqual(await tokensOf(out('keyed')), await tokensOf(out('whole')))
  } finally {
    await Promise.all([other.stop(), keyed.stop()])
  }
})
