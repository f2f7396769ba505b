import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { appendFile, copyFile, cp, mkdir, mkdtemp, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer, text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { pack } from 'tar-stream'
import { commandLine, wordsOf } from '../../../src/tokenize/command-line.ts'
import type { Manifest } from '../../../src/tokenize/manifest.ts'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const photos = join(root, 'test/fixtures/photos')
const bundles = join(root, 'test/fixtures/bundles')
const engine = ['--engines', '1', '--threads', '1', '--provider', 'cpu']

let folder: string
/** Two classes of four photos, and a file that is no image. */
let input: string

async function nativetok(...args: string[]): Promise<{ status: number; lines: string[]; complaint: string }> {
  const child = spawn(join(root, 'bin/nativetok'), args, { cwd: folder })
  const [status, said, complaint] = await Promise.all([
    new Promise<number>((resolve) => child.once('close', resolve)),
    text(child.stdout),
    text(child.stderr),
  ])
  return { status, lines: said.trimEnd().split('\n'), complaint }
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'verify-'))
  input = join(folder, "a user's photos")
  for (const [name, of] of Object.entries({
    plants: ['daisy-1', 'rose', 'tulip', 'water-lily'],
    animals: ['emu', 'ibis', 'llama', 'rhino'],
  })) {
    await mkdir(join(input, name), { recursive: true })
    for (const photo of of) await copyFile(join(photos, `${photo}.webp`), join(input, name, `${photo}.webp`))
  }
  await writeFile(join(input, 'plants/broken.jpg'), 'not an image')
  for (const [format, ...options] of [
    ['npy'],
    ['llamagen', '--crops', 'ten'],
    ['randar', '--flip'],
    ['jsonl', '--flip', '--length', '3'],
    ['webdataset', '--shard-size', '3'],
    ['parquet', '--shard-size', '3', '--flip'],
  ]) {
    const args = [input, '--out', join(folder, format as string), '--format', format as string, ...options, ...engine]
    // The bundle that comes with the product for one of them, which then need not be named; a tiny one for the others.
    if (format !== 'npy') args.push('--model', join(bundles, 'nativetok-a'))
    const { status, complaint } = await nativetok('tokenize', ...args)
    assert.equal(status, 3, complaint)
  }
})
after(() => rm(folder, { recursive: true, force: true }))

/** A copy of an output, to harm. */
async function copyOf(format: string): Promise<string> {
  const out = await mkdtemp(join(folder, 'copy-'))
  await cp(join(folder, format), out, { recursive: true })
  return out
}

/** Makes the manifest agree with a file that was harmed, so that its digest gives nothing away. */
async function cover(out: string, path: string) {
  const name = join(out, 'tokens.json')
  const manifest: Manifest = JSON.parse(await readFile(name, 'utf8'))
  const bytes = await readFile(join(out, path))
  const entry = manifest.files.find((file) => file.path === path)
  assert.ok(entry)
  entry.bytes = bytes.length
  entry.sha256 = createHash('sha256').update(bytes).digest('hex')
  await writeFile(name, JSON.stringify(manifest))
}

async function edit(path: string, change: (bytes: Buffer) => Buffer | undefined) {
  const bytes = await readFile(path)
  await writeFile(path, change(bytes) ?? bytes)
}

/** What verification says of the sample, and its exit status. */
async function sampleOf(out: string, ...options: string[]): Promise<[number, string | undefined]> {
  const { status, lines, complaint } = await nativetok('verify', out, ...options, ...engine)
  return [status, lines.find((line) => / sample: /.test(line)) ?? complaint.trimEnd()]
}

/** What verification says is wrong. */
async function wrongWith(out: string, ...options: string[]): Promise<string[]> {
  const { status, lines, complaint } = await nativetok('verify', out, ...options)
  const wrong = lines.filter((line) => line.startsWith('WRONG '))
  assert.equal(status, wrong.length > 0 ? 1 : 0, complaint)
  return wrong.map((line) => line.slice('WRONG '.length))
}

for (const [format, shape] of Object.entries({
  npy: '1 view of 128 tokens',
  llamagen: '10 views of 8 tokens',
  randar: '2 views of 8 tokens',
  jsonl: '2 views of 3 tokens',
  webdataset: '1 view of 8 tokens',
  parquet: '2 views of 8 tokens',
})) {
  test(`finds nothing wrong with ${format}, and says what it looked at`, async () => {
    const { status, lines, complaint } = await nativetok('verify', join(folder, format), ...engine)
    assert.equal(status, 0, complaint + lines.join('\n'))
    assert.deepEqual(
      lines.map((line) => line.replace(/^(ok {4}(?:files|duplicates)):.*/, '$1')),
      [
        'ok    files',
        'ok    errors: 1 image of 9 failed',
        `ok    rows: 8 images with ${shape}`,
        `ok    ids: all in 0..${format === 'npy' ? 4095 : 63}`,
        'ok    keys: all different',
        'ok    labels: 2 classes of 2',
        'ok    duplicates',
        'ok    sample: 8 images encoded again with cpu: the same tokens',
      ],
    )
  })
}

test('names files that changed, are missing, cut off, or do not belong there', async () => {
  const out = await copyOf('npy')
  await edit(join(out, 'tokens.npy'), (bytes) => {
    bytes[200] = (bytes[200] as number) ^ 1
    return undefined
  })
  await truncate(join(out, 'labels.npy'), 150)
  await rm(join(out, 'keys.txt'))
  await writeFile(join(out, 'notes.txt'), '')
  const wrong = await wrongWith(out, '--sample', '0')
  assert.deepEqual(wrong.slice(0, 4), [
    'files: tokens.npy has changed: its sha256 is not that of tokens.json',
    'files: labels.npy has 150 bytes instead of 192',
    'files: keys.txt is missing',
    'files: not of this output: notes.txt',
  ])
  assert.match(wrong[4] as string, /^rows: labels\.npy has 150 bytes instead of 192/)
})

test('names a file too many among the files of images', async () => {
  const out = await copyOf('llamagen')
  const codes = join(out, 'codes/imagenet32_codes')
  await copyFile(join(codes, '0.npy'), join(codes, '8.npy'))
  assert.deepEqual(await wrongWith(out, '--sample', '0'), ['files: codes/imagenet32_codes/ has 9 files instead of 8'])
  await rename(join(codes, '8.npy'), join(codes, '0.npy'))
  await rename(join(codes, '1.npy'), join(codes, '9.npy'))
  const wrong = await wrongWith(out, '--sample', '0')
  assert.match(wrong[0] as string, /codes\/imagenet32_codes\/ has changed/)
  assert.match(wrong[1] as string, /^rows: codes\/imagenet32_codes\/1\.npy is missing/)
})

test('names a tar that ends early, even where the manifest was written after that', async () => {
  const out = await copyOf('webdataset')
  await edit(join(out, 'tokens-000001.tar'), (bytes) => bytes.subarray(0, -1024))
  await cover(out, 'tokens-000001.tar')
  const wrong = await wrongWith(out, '--sample', '0')
  assert.match(wrong.join(), /^rows: tokens-000001\.tar is cut off/)
})

test('counts failed images', async () => {
  const out = await copyOf('npy')
  await appendFile(join(out, 'errors.jsonl'), '{}\n')
  await cover(out, 'errors.jsonl')
  assert.deepEqual(await wrongWith(out, '--sample', '0'), ['errors: errors.jsonl has 2 lines instead of 1'])
})

test('names ids, keys and labels that cannot be', async () => {
  const out = await copyOf('npy')
  await edit(join(out, 'tokens.npy'), (bytes) => {
    bytes.writeUInt16LE(4096, 128 + 2 * 128 * 3 + 10)
    return undefined
  })
  await edit(join(out, 'labels.npy'), (bytes) => {
    bytes.writeBigInt64LE(2n, 128 + 8 * 5)
    return undefined
  })
  await edit(join(out, 'keys.txt'), (bytes) => Buffer.from(`${bytes}`.replace('plants/rose', 'plants/tulip')))
  for (const path of ['tokens.npy', 'labels.npy', 'keys.txt']) await cover(out, path)
  assert.deepEqual(await wrongWith(out, '--sample', '0'), [
    'ids: animals/rhino has the id 4096',
    'keys: plants/tulip is there twice',
    'labels: plants/tulip has the label 2, and 1 more',
  ])
})

test('encodes again, and so finds tokens of another image and labels of another class', async () => {
  const out = await copyOf('npy')
  await edit(join(out, 'tokens.npy'), (bytes) => {
    const [head, first, second] = [bytes.subarray(0, 128), bytes.subarray(128, 384), bytes.subarray(384, 640)]
    return Buffer.concat([head, second, first, bytes.subarray(640)])
  })
  await edit(join(out, 'labels.npy'), (bytes) => {
    bytes.writeBigInt64LE(1n, 128 + 8 * 2)
    return undefined
  })
  for (const path of ['tokens.npy', 'labels.npy']) await cover(out, path)
  const wrong = await wrongWith(out, ...engine)
  assert.equal(wrong.length, 3)
  assert.match(wrong[0] as string, /^sample: \d+ of 128 tokens of animals\/emu are other ones now$/)
  assert.match(wrong[1] as string, /^sample: \d+ of 128 tokens of animals\/ibis are other ones now$/)
  assert.equal(wrong[2], 'sample: animals/llama has the label 1, in the source 0')
})

test('takes a source that has moved, and says where one is missing or has changed', async () => {
  const moved = join(folder, 'moved')
  await rename(input, moved)
  try {
    const out = join(folder, 'parquet')
    const [status, missing] = await sampleOf(out)
    assert.equal(status, 0)
    assert.match(missing ?? '', /^- {5}sample: not checked: .*a user's photos cannot be read.*--input and --model name/)
    const [named, complaint] = await sampleOf(out, '--input', join(folder, 'nowhere'))
    assert.equal(named, 2)
    assert.match(complaint ?? '', /^nativetok verify: .*nowhere cannot be read/)
    assert.deepEqual(await wrongWith(out, '--input', moved, ...engine), [])
    await rename(join(moved, 'plants/rose.webp'), join(moved, 'plants/roses.webp'))
    assert.match((await wrongWith(out, '--input', moved, ...engine)).join(), /the source has changed/)
    await rename(join(moved, 'plants/roses.webp'), join(moved, 'plants/rose.webp'))
    // A folder that is there and holds other things is not one that is missing.
    await mkdir(input)
    assert.match((await wrongWith(out, ...engine)).join(), /^sample: .*a user's photos holds no image files/)
    await rm(input, { recursive: true })
  } finally {
    await rename(moved, input)
  }
})

test('says where a bundle is missing: the one on record, or one that was named', async () => {
  const out = await copyOf('jsonl')
  const name = join(out, 'tokens.json')
  await edit(name, (bytes) => Buffer.from(`${bytes}`.replace(join(bundles, 'nativetok-a'), 'bundles/a')))
  const [status, missing] = await sampleOf(out)
  assert.equal(status, 0)
  assert.match(missing ?? '', /^- {5}sample: not checked: bundles\/a\/manifest.json: cannot be read/)
  const [named, complaint] = await sampleOf(out, '--model', 'bundles/a')
  assert.equal(named, 2)
  assert.match(complaint ?? '', /^nativetok verify: bundles\/a\/manifest.json: cannot be read/)
})

test('refuses to compare with the tokens of another model', async () => {
  const [wrong] = await wrongWith(join(folder, 'jsonl'), '--model', join(bundles, 'nativetok-b'), ...engine)
  assert.equal(wrong, 'sample: nativetok-b makes other tokens than the nativetok-a that made these')
})

test('tells what is no output, what is not finished, and wrong options', async () => {
  const empty = join(folder, 'empty')
  await mkdir(empty)
  const none = await nativetok('verify', empty)
  assert.deepEqual([none.status, none.complaint.match(/has no tokens\.json/)?.length], [2, 1])
  await mkdir(join(empty, '.tokenize'))
  const begun = await nativetok('verify', empty)
  assert.deepEqual([begun.status, begun.complaint.match(/is not finished/)?.length], [1, 1])
  for (const args of [[], ['a', 'b'], [empty, '--sample', 'x'], [empty, '--nonsense']]) {
    const { status, complaint } = await nativetok('verify', ...args)
    assert.equal(status, 2, complaint)
    assert.match(complaint, /^nativetok verify: .+\n$/)
  }
})

test('counts images that have the tokens of another one', async () => {
  const out = await copyOf('npy')
  await edit(join(out, 'tokens.npy'), (bytes) =>
    Buffer.concat([bytes.subarray(0, 384), bytes.subarray(128)]).subarray(0, bytes.length),
  )
  await cover(out, 'tokens.npy')
  const { lines } = await nativetok('verify', out, '--sample', '0')
  assert.ok(lines.includes('ok    duplicates: 1 image has the tokens of another one'), lines.join('\n'))
})

for (const [suffix, fixture] of [
  ['tar', 'photos-000000.tar'],
  ['parquet', 'datasets.parquet'],
] as const) {
  test(`allows keys that several files of the kind ${suffix} have`, async () => {
    const input = join(folder, `from ${suffix}`)
    await mkdir(input)
    for (const name of ['a', 'b']) {
      await copyFile(join(root, 'test/fixtures/datasets', fixture), join(input, `${name}.${suffix}`))
    }
    const out = join(folder, `out-of-${suffix}`)
    const made = await nativetok('tokenize', input, '--out', out, '--model', join(bundles, 'nativetok-a'), ...engine)
    assert.equal(made.status, 0, made.complaint)
    const { status, lines } = await nativetok('verify', out, ...engine)
    assert.equal(status, 0, lines.join('\n'))
    assert.ok(lines.some((line) => /^ok {4}keys: \d+ are those of other images as well$/.test(line)))
  })
}

test('compares the right ones among images that share a key, where others failed', async () => {
  const photo = (name: string) => readFile(join(photos, `${name}.webp`))
  const input = join(folder, 'shared')
  await mkdir(input)
  for (const [shard, members] of Object.entries({
    a: { same: Buffer.from('not an image'), other: await photo('emu') },
    b: { same: await photo('rose'), lost: Buffer.from('not an image') },
    c: { same: await photo('ibis'), more: await photo('llama') },
  })) {
    const tar = pack()
    for (const [key, content] of Object.entries(members)) tar.entry({ name: `${key}.webp` }, content)
    tar.finalize()
    await writeFile(join(input, `${shard}.tar`), await buffer(tar))
  }
  const out = join(folder, 'out-of-shared')
  const made = await nativetok('tokenize', input, '--out', out, ...engine)
  assert.equal(made.status, 3, made.complaint)
  assert.deepEqual(await sampleOf(out), [0, 'ok    sample: 4 images encoded again with cpu: the same tokens'])
  // The third image is the second that is called `same`; with the tokens of the first one it is wrong.
  await edit(join(out, 'tokens.npy'), (bytes) =>
    Buffer.concat([bytes.subarray(0, 640), bytes.subarray(384, 640), bytes.subarray(896)]),
  )
  await cover(out, 'tokens.npy')
  assert.match((await wrongWith(out, ...engine)).join(), /^sample: \d+ of 128 tokens of same are other ones now$/)
})

test('finds errors.jsonl out of order, and then does not guess which images have rows', async () => {
  const out = await copyOf('npy')
  await writeFile(join(out, 'errors.jsonl'), '{"key":"plants/broken"}\n')
  await cover(out, 'errors.jsonl')
  assert.deepEqual(await wrongWith(out), ['errors: errors.jsonl: line 1 has no index, or one out of order'])
  const [, sample] = await sampleOf(out)
  assert.match(sample ?? '', /^- {5}sample: not checked: errors\.jsonl does not tell/)
})

test('a command on record gives back its words', () => {
  const words = [
    'nativetok',
    'tokenize',
    "a user's photos",
    '--out',
    'x y',
    "''",
    '',
    'a\\b',
    'shards-{0..9}.tar',
    '"',
    '\n',
  ]
  assert.deepEqual(wordsOf(commandLine(words)), words)
})
