import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { cp, link, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readBundle } from '../../src/inference/bundle.ts'
import { BundleError } from '../../src/inference/inference.ts'
import { tinyBundle } from '../helpers/bundle.ts'
import { startInference } from './support.ts'

const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex')
const digest = (hashes: string[]) => sha256(hashes.sort().join('\n'))
const manifestOf = async (folder: string) => JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'))

async function copyOf(t: TestContext, name: 'parallel' | 'state' | 'whole'): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'bundle-'))
  t.after(() => rm(folder, { recursive: true }))
  await cp(tinyBundle(name), folder, { recursive: true })
  return folder
}

/** Writes a file of the bundle and updates the manifest. */
async function replace(folder: string, file: string, content: Uint8Array | string): Promise<void> {
  const manifest = await manifestOf(folder)
  manifest.files[file] = sha256(content)
  await writeFile(join(folder, file), content)
  await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest))
}

async function refused(promise: Promise<unknown>, sentence: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof BundleError, String(error))
    assert.doesNotMatch(error.message, /\n/)
    assert.match(error.message, sentence)
    return true
  })
}

test('the model digest covers the weights that make tokens, the bundle digest everything', async (t) => {
  const folder = await copyOf(t, 'parallel')
  const before = await readBundle(folder)
  const { files } = await manifestOf(folder)
  const meaning = ['codebook.npy', 'encoder.onnx', 'encoder.weights'].map((file) => files[file])
  assert.equal(before.modelDigest, digest(meaning))
  const manifestHash = sha256(await readFile(join(folder, 'manifest.json')))
  assert.equal(before.bundleDigest, digest([...Object.values<string>(files), manifestHash]))
  assert.deepEqual(
    before.graphs.map(({ weights }) => weights.map(({ file, bytes }) => [file, bytes])),
    [[['encoder.weights', 12_288]], [['decoder.weights', 12_288]]],
  )

  await replace(folder, 'decoder.weights', Buffer.alloc(12_288))
  const otherDecoder = await readBundle(folder)
  assert.equal(otherDecoder.modelDigest, before.modelDigest)
  assert.notEqual(otherDecoder.bundleDigest, before.bundleDigest)
  await replace(folder, 'encoder.weights', Buffer.alloc(12_288))
  assert.notEqual((await readBundle(folder)).modelDigest, before.modelDigest)
})

const changes: Record<string, [bundle: 'parallel' | 'state' | 'whole', change: object, sentence: RegExp]> = {
  'of an unknown kind': ['parallel', { kind: 'serial' }, /\/kind must be .*: \["causal","parallel"\]$/],
  'that does not say whether prefixes decode': ['parallel', { prefixes: undefined }, /must have .* 'prefixes'$/],
  'of a parallel model with stages': [
    'parallel',
    { tokens: { length: 4, stages: [2, 4] } },
    /a parallel bundle must have one stage, not \[2,4\]$/,
  ],
  'of a parallel model that hands over ids': ['parallel', { handover: 'ids' }, /parallel cannot have handover ids/],
  'of a parallel model with latents': [
    'parallel',
    { latents: { count: 1, width: 1 } },
    /parallel bundle must not have latents$/,
  ],
  'of a causal model without latents': ['state', { latents: undefined }, /causal bundle must have latents$/],
  'of a causal model that hands over nothing': ['state', { handover: 'none' }, /causal cannot have handover none/],
  'without the state that stages hand over': ['state', { state: undefined }, /handover state there must be a state$/],
  'with a state that no stage hands over': ['whole', { state: { width: 1 } }, /handover ids there must be no state$/],
  'with an unknown kernel': [
    'parallel',
    { image: { ...(await manifestOf(tinyBundle('parallel'))).image, kernel: 'nearest' } },
    /\/image\/kernel must be .*: \["lanczos3","bicubic"\]$/,
  ],
  'with a sequence too long for its ids': [
    'parallel',
    { tokens: { length: 70_000, stages: [70_000] } },
    /\/tokens\/length must be <= 65535$/,
  ],
  'without a graph': ['state', { graphs: { encoder: { file: 'encoder.onnx' } } }, /graphs has no mocet-1$/],
  'with a graph in another folder': [
    'state',
    { graphs: { encoder: { file: '../encoder.onnx' } } },
    /\/graphs\/encoder\/file must match pattern/,
  ],
  'with hidden weights': [
    'state',
    { graphs: { encoder: { file: 'encoder.onnx', weights: ['.weights'] } } },
    /\/graphs\/encoder\/weights\/0 must match pattern/,
  ],
  'with weights that files does not list': [
    'parallel',
    { graphs: { encoder: { file: 'encoder.onnx', weights: ['w'] }, decoder: { file: 'decoder.onnx' } } },
    /files does not list w$/,
  ],
  'without a licence': ['parallel', { source: { family: 'x' } }, /\/source must have required property 'licence'$/],
}
for (const [name, [bundle, change, sentence]] of Object.entries(changes)) {
  test(`a manifest of format 2 ${name} is refused`, async (t) => {
    const folder = await copyOf(t, bundle)
    const manifest = { ...(await manifestOf(folder)), ...change }
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest))
    await refused(readBundle(folder), /^manifest\.json: /)
    await refused(readBundle(folder), sentence)
  })
}

test('weights that do not match the manifest are refused', async (t) => {
  const folder = await copyOf(t, 'parallel')
  await writeFile(join(folder, 'decoder.weights'), Buffer.alloc(12_288))
  await refused(readBundle(folder), /^decoder\.weights: sha256 is [0-9a-f]{64}, but the manifest says [0-9a-f]{64}$/)
})

test('a graph that reads a file that the manifest does not list for it is refused', async (t) => {
  const folder = await copyOf(t, 'parallel')
  const manifest = await manifestOf(folder)
  manifest.graphs.encoder.weights = []
  await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest))
  await refused(
    startInference({ model: folder }),
    /^encoder\.onnx: reads "encoder\.weights", which is not among its weights in the manifest$/,
  )
})

test('a replacement engine refuses weights that changed meanwhile', async (t) => {
  const folder = await copyOf(t, 'parallel')
  const { inference, observed } = await startInference({ model: folder, lostAfterMs: 3000 })
  t.after(() => inference.close())
  const path = join(folder, 'encoder.weights')
  const other = Buffer.from(await readFile(path))
  other.writeFloatLE(0.5, 0)
  await writeFile(`${path}.new`, other)
  await rename(`${path}.new`, path)
  process.kill(observed.pids[0] ?? 0, 'SIGKILL')
  assert.match(await inference.lost, /encoder\.weights: changed on disk since the service started/)
})

test('a replacement engine accepts weights of which only the links changed', async (t) => {
  const folder = await copyOf(t, 'parallel')
  const { inference, observed } = await startInference({ model: folder })
  t.after(() => inference.close())
  const image = new Uint8Array(16 * 16 * 3).fill(170)
  const { tokens } = await inference.encode(image, 4)
  await link(join(folder, 'encoder.weights'), join(folder, 'backup'))
  process.kill(observed.pids[0] ?? 0, 'SIGKILL')
  assert.deepEqual((await inference.encode(image, 4)).tokens, tokens)
  assert.equal(observed.pids.length, 2)
})
