import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readBundle } from '../../src/inference/bundle.ts'
import { BundleError } from '../../src/inference/inference.ts'
import { BUNDLE } from '../helpers/bundle.ts'
import { startInference } from './support.ts'

const manifest = JSON.parse(await readFile(join(BUNDLE, 'manifest.json'), 'utf8'))
const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex')
const digest = (hashes: string[]) => sha256(hashes.sort().join('\n'))

/** A bundle of links to the real one's files, for tests to damage. */
async function copyBundle(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'bundle-'))
  t.after(() => rm(folder, { recursive: true }))
  for (const file of await readdir(BUNDLE)) await symlink(join(BUNDLE, file), join(folder, file))
  return folder
}

async function put(folder: string, file: string, content: Uint8Array | string): Promise<void> {
  await unlink(join(folder, file)).catch(() => {})
  await writeFile(join(folder, file), content)
}

/** Replaces a file and updates the manifest. */
async function replace(folder: string, contents: Record<string, Uint8Array | string>): Promise<void> {
  const hashes = Object.entries(contents).map(([file, content]) => [file, sha256(content)])
  const files = { ...manifest.files, ...Object.fromEntries(hashes) }
  for (const [file, content] of Object.entries(contents)) await put(folder, file, content)
  await put(folder, 'manifest.json', JSON.stringify({ ...manifest, files }))
}

/** Checks that the error is one sentence that begins with the file and says what is wrong. */
async function refused(promise: Promise<unknown>, sentence: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof BundleError)
    assert.doesNotMatch(error.message, /\n/)
    assert.match(error.message, sentence)
    return true
  })
}

test('reads the bundle and its digests', async () => {
  const bundle = await readBundle(BUNDLE)
  const { 'decoder.onnx': _, 'MODEL_CARD.md': __, ...meaning } = manifest.files
  assert.equal(bundle.modelDigest, digest(Object.values(meaning)))
  const manifestHash = sha256(await readFile(join(BUNDLE, 'manifest.json')))
  assert.equal(bundle.bundleDigest, digest([...Object.values<string>(manifest.files), manifestHash]))
  assert.deepEqual(bundle.codebookFile, await readFile(join(BUNDLE, 'codebook.npy')))
  assert.deepEqual(bundle.shape.stages, manifest.tokens.stages)
})

test('with another decoder, the bundle is different but the model is the same', async (t) => {
  const folder = await copyBundle(t)
  await replace(folder, { 'decoder.onnx': 'another decoder' })
  const [before, after] = [await readBundle(BUNDLE), await readBundle(folder)]
  assert.equal(after.modelDigest, before.modelDigest)
  assert.notEqual(after.bundleDigest, before.bundleDigest)
})

test('with another encoder, the model is different', async (t) => {
  const folder = await copyBundle(t)
  await replace(folder, { 'encoder.onnx': 'another encoder' })
  assert.notEqual((await readBundle(folder)).modelDigest, (await readBundle(BUNDLE)).modelDigest)
})

test('a folder without a manifest is refused', async (t) => {
  const folder = await copyBundle(t)
  await unlink(join(folder, 'manifest.json'))
  await refused(readBundle(folder), /manifest\.json: cannot be read \(ENOENT/)
})

const manifests: Record<string, [content: unknown, sentence: RegExp]> = {
  'that is not JSON': ['{', /^manifest\.json: is not JSON/],
  'that is null': [null, /^manifest\.json: /],
  'of another format': [{ ...manifest, format: 3 }, /^manifest\.json: format 3 is not supported; .* formats 1 and 2$/],
  'without a key': [{ ...manifest, quality: undefined }, /^manifest\.json: it must have required property 'quality'$/],
  'with other preprocessing': [
    { ...manifest, image: { ...manifest.image, kernel: 'cubic' } },
    /^manifest\.json: \/image\/kernel must be equal to constant: "lanczos3"$/,
  ],
  'with stages that do not end at the length': [
    { ...manifest, tokens: { length: 128, stages: [32, 64] } },
    /^manifest\.json: stages \[32,64\] do not ascend to the sequence length 128/,
  ],
  'that lacks the graph of a stage': [
    { ...manifest, files: { ...manifest.files, 'mocet-2.onnx': undefined } },
    /^manifest\.json: files does not list mocet-2\.onnx$/,
  ],
  'that lists a graph without a stage': [
    { ...manifest, files: { ...manifest.files, 'mocet-4.onnx': sha256('') } },
    /^manifest\.json: files lists mocet-4\.onnx, which no graph/,
  ],
  'that points outside its folder': [
    { ...manifest, files: { ...manifest.files, '../secret': sha256('') } },
    /^manifest\.json: \/files .*\b(pattern|invalid)\b/,
  ],
}
for (const [name, [content, sentence]] of Object.entries(manifests)) {
  test(`a manifest ${name} is refused`, async (t) => {
    const folder = await copyBundle(t)
    await put(folder, 'manifest.json', typeof content === 'string' ? content : JSON.stringify(content))
    await refused(readBundle(folder), sentence)
  })
}

for (const file of Object.keys(manifest.files)) {
  test(`a bundle whose ${file} is missing, cut or changed is refused`, async (t) => {
    const folder = await copyBundle(t)
    const name = file.replaceAll('.', '\\.')
    const bytes = await readFile(join(BUNDLE, file))
    await unlink(join(folder, file))
    await refused(readBundle(folder), new RegExp(`^${name}: cannot be read \\(ENOENT`))
    await put(folder, file, bytes.subarray(0, bytes.length - 1))
    await refused(
      readBundle(folder),
      new RegExp(`^${name}: sha256 is [0-9a-f]{64}, but the manifest says [0-9a-f]{64}$`),
    )
    bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1)
    await put(folder, file, bytes)
    await refused(readBundle(folder), new RegExp(`^${name}: sha256 is`))
  })
}

test('a codebook whose header or size does not match the manifest is refused', async (t) => {
  const folder = await copyBundle(t)
  const bytes = await readFile(join(BUNDLE, 'codebook.npy'))
  const edit = (from: string, to: string) => Buffer.from(bytes.toString('latin1').replace(from, to), 'latin1')
  const codebooks: [content: Buffer, sentence: RegExp][] = [
    [Buffer.from('not NumPy at all'), /^codebook\.npy: is not a NumPy file/],
    [edit("'<f4'", "'<f8'"), /^codebook\.npy: header is .*<f8.*, but the manifest says float32 \[4096,12\]$/],
    [edit("'<f4'", "'>f4'"), /^codebook\.npy: header is .*>f4/],
    [edit('False', 'True '), /^codebook\.npy: header is .*True/],
    [edit('(4096, 12)', '(12, 4096)'), /^codebook\.npy: header is .*\(12, 4096\)/],
    [bytes.subarray(0, bytes.length - 4), /^codebook\.npy: holds 196604 bytes of data/],
  ]
  for (const [content, sentence] of codebooks) {
    await replace(folder, { 'codebook.npy': content })
    await refused(readBundle(folder), sentence)
  }
})

test('a graph whose inputs and outputs do not match the manifest is refused at startup', async (t) => {
  const folder = await copyBundle(t)
  await replace(folder, {
    'mocet-1.onnx': await readFile(join(BUNDLE, 'mocet-2.onnx')),
  })
  await refused(
    startInference({ model: folder }),
    /^mocet-1\.onnx: has an input named prefix, which is not in the manifest$/,
  )
  await replace(folder, {
    'mocet-1.onnx': await readFile(join(BUNDLE, 'mocet-1.onnx')),
    'mocet-2.onnx': await readFile(join(BUNDLE, 'mocet-3.onnx')),
  })
  await refused(
    startInference({ model: folder }),
    /^mocet-2\.onnx: input prefix is int32 \[\w+,64\], but the manifest says int32 \[B,32\]$/,
  )
  await replace(folder, {
    'mocet-2.onnx': await readFile(join(BUNDLE, 'mocet-2.onnx')),
    'encoder.onnx': await readFile(join(BUNDLE, 'decoder.onnx')),
  })
  await refused(
    startInference({ model: folder, provider: 'auto' }),
    /^encoder\.onnx: has no input named images, which the manifest requires$/,
  )
})

test('a file that is not an ONNX graph is named at startup', async (t) => {
  const folder = await copyBundle(t)
  await replace(folder, { 'encoder.onnx': 'not a graph' })
  await assert.rejects(startInference({ model: folder }), /^Error: encoder\.onnx: /)
})
