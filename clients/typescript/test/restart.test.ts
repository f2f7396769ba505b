import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { ModelChangedError, Tokenizer, UnreachableError } from '../src/index.ts'
import { choose, chosen, photos, Service, small, until } from './helpers/service.ts'

const bundle = fileURLToPath(new URL('../../../models/nativetok-128', import.meta.url))
let service: Service
let folder: string

before(async () => {
  service = await Service.start(small)
  folder = await mkdtemp(join(tmpdir(), 'other-model-'))
})
after(async () => {
  await service.end()
  await rm(folder, { recursive: true })
})

test('killed in the middle and started again, nothing is lost or done twice', async () => {
  const sent: string[] = []
  const answered: string[] = []
  const counting: typeof fetch = async (input) => {
    const request = input as Request
    const label = request.headers.get('x-request-id') ?? request.url
    const body = createHash('sha256').update(Buffer.from(await request.clone().arrayBuffer()))
    // A multipart body has another boundary each time; its size tells the groups of photos apart.
    const key = request.url.includes('encode')
      ? `encode ${(await request.clone().formData()).getAll('images').map((image) => (image as File).size)}`
      : `${label} ${body.digest('hex')}`
    sent.push(key)
    const response = await fetch(request)
    const whole = new Response(await response.arrayBuffer(), response)
    if (response.ok) answered.push(key)
    return whole
  }
  const plain = await Tokenizer.connect(service.url)
  const known = await plain.encode(photos)
  const tokenizer = await Tokenizer.connect(service.url, { fetch: counting })
  sent.length = answered.length = 0
  const which = choose(300)
  const encoding = tokenizer.encode(chosen(photos, which), { length: 32 })
  const decoding = tokenizer.decode(chosen(known, which))
  await until(async () => answered.length >= 3)
  await service.end('SIGKILL')
  service = await Service.start(small, service.port)
  const expected = chosen(known, which).map((row) => row.slice(0, 32))
  assert.deepEqual(await encoding, expected)
  const pictures = await Promise.all((await decoding).map(async (blob) => Buffer.from(await blob.arrayBuffer())))
  const drawn = await Promise.all(
    (await plain.decode(known)).map(async (blob) => Buffer.from(await blob.arrayBuffer())),
  )
  assert.ok(pictures.every((picture, i) => picture.equals(drawn[which[i] as number] as Buffer)))

  assert.equal(answered.length, 2 * Math.ceil(300 / 64))
  assert.equal(new Set(answered).size, answered.length, 'what was answered is sent no more')
  assert.ok(sent.length > answered.length, 'the kill hit no request')
})

test('a restart with another model never mixes tokens', async () => {
  const tokenizer = await Tokenizer.connect(service.url)
  const hasty = await Tokenizer.connect(service.url, { patience: 1 })
  const known = await tokenizer.encode(photos.slice(0, 1))
  await service.end('SIGKILL')
  await assert.rejects(hasty.encode(photos), UnreachableError)
  service = await Service.start([...small, '--model', await otherModel()], service.port)
  for (const use of [
    () => tokenizer.encode(photos.slice(0, 1)),
    () => tokenizer.decode(known),
    () => tokenizer.codebook(),
    () => tokenizer.info(),
  ]) {
    await assert.rejects(use, ModelChangedError)
  }
  const anew = await Tokenizer.connect(service.url)
  assert.equal((await anew.encode(photos.slice(0, 1))).length, 1)
})

/** The bundle with another codebook, whose tokens therefore mean something else. */
async function otherModel(): Promise<string> {
  await cp(bundle, folder, { recursive: true })
  const codebook = await readFile(join(folder, 'codebook.npy'))
  codebook.writeFloatLE(-codebook.readFloatLE(codebook.length - 4), codebook.length - 4)
  await writeFile(join(folder, 'codebook.npy'), codebook)
  const manifest = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'))
  manifest.files['codebook.npy'] = createHash('sha256').update(codebook).digest('hex')
  await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest))
  return folder
}
