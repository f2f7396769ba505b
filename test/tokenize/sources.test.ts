import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { pack } from 'tar-stream'
import { ItemError, OptionsError } from '../../src/tokenize/errors.ts'
import { openSource, type SourceOptions } from '../../src/tokenize/sources/open.ts'
import { expand } from '../../src/tokenize/sources/shards.ts'
import type { Item, Position, Source } from '../../src/tokenize/sources/source.ts'
import { fixture } from '../helpers/service.ts'

const datasets = join(import.meta.dirname, '../fixtures/datasets')
const names = ['airplane', 'car', 'cougar', 'ferry', 'flamingo', 'leopard']
const labels = [1, 1, 0, 1, 0, 0]
const bytes = names.map((name) => fixture(`photos/${name}.webp`))
let folder: string

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sources-'))
})
after(() => rm(folder, { recursive: true }))

function open(input: string, options: Partial<SourceOptions> = {}): Promise<Source> {
  return openSource({
    ...{ input, labels: 'auto', part: { index: 0, count: 1 }, imageColumn: undefined, labelColumn: undefined },
    ...{ say: () => {}, ...options },
  })
}

async function all(source: Source, from: Position = { image: 0 }): Promise<Item[]> {
  const items: Item[] = []
  for await (const item of source.items(from)) items.push(item)
  return items
}

/** The items as key, label and which photo it is, or why it cannot be read. */
function outline(items: Item[]): Promise<[string, number | undefined, string][]> {
  return Promise.all(
    items.map(async ({ key, label, read }) => {
      const found = await read().then(
        (file) => names[bytes.findIndex((photo) => photo.equals(file))] ?? 'another file',
        (error: unknown) => {
          assert.ok(error instanceof ItemError, String(error))
          return error.message
        },
      )
      return [key, label, found]
    }),
  )
}

const expected = names.map((name, i) => [name, labels[i], name])

/** A tar of these members. */
function tarOf(members: Record<string, Buffer | string>): Promise<Buffer> {
  const tar = pack()
  for (const [name, content] of Object.entries(members)) tar.entry({ name }, content)
  tar.finalize()
  return buffer(tar)
}

/** Writes files into a new folder. */
async function write(name: string, files: Record<string, Buffer | string>): Promise<string> {
  for (const [path, content] of Object.entries(files)) {
    const file = join(folder, name, path)
    await mkdir(join(file, '..'), { recursive: true })
    await writeFile(file, content)
  }
  return join(folder, name)
}

function refused(opening: Promise<unknown>, message: RegExp): Promise<void> {
  return assert.rejects(opening, (error) => {
    assert.ok(error instanceof OptionsError, String(error))
    assert.match(error.message, message)
    return true
  })
}

test('a folder: classes and files in string order, sub-folders after a folder’s own files', async () => {
  const [photo] = bytes as [Buffer]
  const input = await write('folder', {
    'b/2.webp': photo,
    'b/10.webp': photo,
    'a/z.JPEG': photo,
    'a/sub/1.png': photo,
    'a/sub-x/1.png': photo,
    'a/.hidden.jpg': photo,
    'a/notes.txt': 'no image',
    '.cache/1.png': photo,
    '\u{1f600}/1.png': photo,
    '\uff5e/1.png': photo,
  })
  await symlink(join(folder, 'folder/b'), join(input, 'c'))
  const source = await open(input)
  const items = await all(source)
  // By code point, as Python sorts: U+FF5E comes before U+1F600, whose first UTF-16 unit is smaller.
  assert.deepEqual(source.classes, ['a', 'b', 'c', '\uff5e', '\u{1f600}'])
  assert.deepEqual(
    items.map(({ key, label }) => [key, label]),
    [
      ['a/z', 0],
      ['a/sub/1', 0],
      ['a/sub-x/1', 0],
      ['b/10', 1],
      ['b/2', 1],
      ['c/10', 2],
      ['c/2', 2],
      ['\uff5e/1', 3],
      ['\u{1f600}/1', 4],
    ],
  )
  assert.deepEqual(source.size, { unit: 'images', count: 9 })
  assert.deepEqual(await outline(items.slice(3, 4)), [['b/10', 1, 'airplane']])
  const unlabelled = await open(input, { labels: 'none' })
  assert.deepEqual([unlabelled.labels, unlabelled.classes], [false, undefined])
})

test('files that share a name without its suffix keep it in their keys', async () => {
  const [photo] = bytes as [Buffer]
  const input = await write('twins', { 'a.jpg': photo, 'a.png': photo, 'a.b.png': photo, 'c.jpg': photo })
  const source = await open(input)
  assert.deepEqual(
    (await all(source)).map(({ key, label }) => [key, label]),
    ['a.b', 'a.jpg', 'a.png', 'c'].map((key) => [key, undefined]),
  )
  assert.equal(source.labels, false)
})

test('keys differ also where a name has two suffixes', async () => {
  const [photo] = bytes as [Buffer]
  const input = await write('suffixes', {
    ...{ 'a.jpg': photo, 'a.png': photo, 'a.jpg.webp': photo, 'b.jpg.webp': photo },
    'list.txt': 'a.jpg\na.png\na.jpg.webp\nb.jpg.webp\n',
  })
  const expected = ['a.jpg', 'a.jpg.webp', 'a.png', 'b.jpg']
  for (const from of [input, join(input, 'list.txt')]) {
    const keys = (await all(await open(from))).map(({ key }) => key)
    assert.deepEqual(keys.sort(), expected)
  }
})

test('a link that leads back to a folder that it is in is refused by name', { timeout: 10_000 }, async () => {
  const [photo] = bytes as [Buffer]
  const input = await write('loop', { 'a/1.png': photo, 'b/sub/1.png': photo })
  // A link to a folder beside it leads nowhere twice.
  await symlink('../a', join(input, 'b/a'))
  assert.deepEqual(
    (await all(await open(input))).map(({ key }) => key),
    ['a/1', 'b/a/1', 'b/sub/1'],
  )
  for (const target of ['..', '../../b', '../..']) {
    await symlink(target, join(input, 'b/sub/again'))
    await refused(open(input), /loop\/b\/sub\/again is a link to a folder that it is in/)
    await rm(join(input, 'b/sub/again'))
  }
})

test('what is no file, and a name that is not UTF-8, fails by itself', { timeout: 10_000 }, async () => {
  const input = await write('fifo', { 'b.png': bytes[0] as Buffer, 'list.txt': 'a.png\nb.png\nfolder\n' })
  execFileSync('mkfifo', [join(input, 'a.png')])
  await writeFile(Buffer.concat([Buffer.from(`${input}/caf`), Buffer.from([0xe9]), Buffer.from('.png')]), '')
  assert.deepEqual(await outline(await all(await open(input))), [
    ['a', undefined, 'is not a file'],
    ['b', undefined, 'airplane'],
    ['caf\ufffd', undefined, 'has a name that is not UTF-8'],
  ])
  await mkdir(join(input, 'folder'))
  assert.deepEqual(
    (await outline(await all(await open(join(input, 'list.txt'))))).map(([, , found]) => found),
    ['is not a file', 'airplane', 'is not a file'],
  )
})

test('a folder that is no data set is refused', async () => {
  const [photo] = bytes as [Buffer]
  await refused(open(await write('mixed', { 'a/1.png': photo, '2.png': photo })), /1 images beside its class folders/)
  assert.equal((await all(await open(join(folder, 'mixed'), { labels: 'none' }))).length, 2)
  await refused(open(await write('empty', { 'a.txt': '' })), /holds no image files/)
  await refused(open(join(folder, 'nowhere')), /nowhere cannot be read/)
  await refused(open(await write('kinds', { 'a.tar': '', 'b.parquet': '' })), /tars and Parquet/)
  await refused(open(join(folder, 'twins/a.jpg')), /a.jpg is no data set/)
  await refused(open(''), /^the input is empty$/)
})

test('a missing or unreadable image fails by itself', async () => {
  const input = await write('links', { 'b.png': bytes[0] as Buffer })
  await symlink('/nowhere', join(input, 'a.png'))
  assert.deepEqual(await outline(await all(await open(input))), [
    ['a', undefined, 'cannot be read (ENOENT)'],
    ['b', undefined, 'airplane'],
  ])
})

test('a list of paths, with labels or without', async () => {
  const photos = Object.fromEntries(names.map((name, i) => [`photos/${name}.webp`, bytes[i] as Buffer]))
  const lines = names.map((name) => `photos/${name}.webp`)
  const input = await write('list', {
    ...photos,
    'plain.txt': `\n${lines.join('\r\n')}\n`,
    'labels.tsv': lines.map((line, i) => `${line}\t${['animal', 'vehicle'][labels[i] as number]}`).join('\n'),
    'numbers.txt': lines.map((line, i) => `${line}\t${labels[i]}`).join('\n'),
    'odd.txt': `${lines[0]}\t1\n${lines[1]}`,
    'twice.txt': `${lines[0]}\n${lines[1]}\n${lines[0]}`,
    'tabs.txt': `${lines[0]}\t1\t2`,
    'latin.txt': Buffer.from('caf\xe9.jpg', 'latin1'),
    'nothing.txt': '\n',
  })
  const keyed = expected.map(([name, label]) => [`photos/${name}`, label, name])
  const plain = await open(join(input, 'plain.txt'))
  assert.deepEqual(
    await outline(await all(plain)),
    keyed.map(([key, , name]) => [key, undefined, name]),
  )
  const labelled = await open(join(input, 'labels.tsv'))
  assert.deepEqual(labelled.classes, ['animal', 'vehicle'])
  assert.deepEqual(await outline(await all(labelled)), keyed)
  const numbered = await open(join(input, 'numbers.txt'))
  assert.deepEqual([numbered.labels, numbered.classes], [true, undefined])
  assert.deepEqual(await outline(await all(numbered)), keyed)
  assert.equal((await open(join(input, 'numbers.txt'), { labels: 'none' })).labels, false)
  await refused(open(join(input, 'odd.txt')), /line 2 has no label/)
  await refused(open(join(input, 'twice.txt')), /line 3 names .*airplane.*, as line 1 does/)
  await refused(open(join(input, 'tabs.txt')), /line 1 is not a path/)
  await refused(open(join(input, 'latin.txt')), /not text in UTF-8/)
  await refused(open(join(input, 'nothing.txt')), /names no image/)
})

test('tars that tarfile wrote: samples by key, labels from .cls, other members left out', async () => {
  const keyed = expected.map(([name, label]) => [`${String(name)[0]}/${name}`, label, name])
  const pattern = await open(join(datasets, 'photos-{000000..000001}.tar'))
  assert.deepEqual(await outline(await all(pattern)), keyed)
  assert.deepEqual(pattern.size, { unit: 'bytes', count: 51_200 })
  const input = join(folder, 'tars')
  await mkdir(input)
  for (const shard of [0, 1]) {
    await cp(join(datasets, `photos-00000${shard}.tar`), join(input, `photos-00000${shard}.tar`))
  }
  const whole = await open(input)
  assert.deepEqual(await outline(await all(whole)), keyed)
  assert.equal(whole.digest, pattern.digest)
  assert.deepEqual((await all(await open(join(input, 'photos-000001.tar')))).map(({ key }) => key).length, 3)
})

for (const form of ['pax', 'gnu']) {
  test(`a tar in ${form} format: long names, and labels that are names`, async () => {
    const said: string[] = []
    const source = await open(join(datasets, `${form}.tar`), { say: (line) => said.push(line) })
    assert.deepEqual(source.classes, ['animal', 'vehicle'])
    assert.match(said.join(), /reading all of them first/)
    const long = `${'folder/'.repeat(20)}überlang-${'x'.repeat(100)}`
    assert.deepEqual(await outline(await all(source)), [
      [long, 1, 'airplane'],
      ['b', 0, 'cougar'],
      ['c', 1, 'ferry'],
    ])
  })
}

test('a sample of a tar that is not whole fails by itself', async () => {
  assert.deepEqual(await outline(await all(await open(join(datasets, 'odd.tar')))), [
    ['good', 1, 'airplane'],
    ['no-image', 1, 'has no image'],
    ['two', 0, 'has two images, .webp and .png'],
    ['no-label', undefined, 'has no .cls'],
    ['word', undefined, 'has the label "three", which is not an integer of 0 to 2147483647'],
    ['again', 0, 'has two members with the suffix .webp'],
  ])
  const unlabelled = await all(await open(join(datasets, 'odd.tar'), { labels: 'none' }))
  assert.deepEqual((await outline(unlabelled)).at(4), ['word', undefined, 'ferry'])
})

test('an empty .cls fails by itself, wherever it is', async () => {
  const [photo] = bytes as [Buffer]
  for (const [label, numbers, classes] of [
    ['7', [undefined, 7, undefined], undefined],
    ['cat', [undefined, 0, undefined], ['cat']],
  ] as const) {
    const tar = await tarOf({
      ...{ 'a.webp': photo, 'a.cls': '' },
      ...{ 'b.webp': photo, 'b.cls': label },
      ...{ 'c.webp': photo, 'c.cls': ' \n' },
    })
    const source = await open(join(await write('empty-cls', { 'a.tar': tar }), 'a.tar'))
    assert.deepEqual(source.classes, classes)
    assert.deepEqual(await outline(await all(source)), [
      ['a', numbers[0], 'has an empty .cls'],
      ['b', numbers[1], 'airplane'],
      ['c', numbers[2], 'has an empty .cls'],
    ])
  }
})

test('tars without an image are refused', async () => {
  const none = await tarOf({ 'a.json': '{}', 'a.cls': '1' })
  const input = await write('imageless', { 'a.tar': none, 'b.tar': await tarOf({}) })
  await refused(open(input), /imageless holds no image files/)
  await writeFile(join(input, 'c.tar'), await tarOf({ 'b.webp': bytes[0] as Buffer, 'b.cls': '1' }))
  assert.deepEqual(await outline(await all(await open(input))), [
    ['a', 1, 'has no image'],
    ['b', 1, 'airplane'],
  ])
})

test('a tar that is cut off or damaged is an error that names it', async () => {
  const whole = fixture('datasets/photos-000000.tar')
  for (const [name, end] of [
    ['member', 1000],
    // At the end of the first sample's members: what is left would read as a shorter tar.
    ['border', whole.indexOf(Buffer.from('c/car.webp'))],
    ['empty', 0],
  ] as const) {
    const input = await write('cut', { [`${name}.tar`]: whole.subarray(0, end) })
    await assert.rejects(open(join(input, `${name}.tar`)), (error: Error) => {
      assert.match(error.message, new RegExp(`${name}.tar is cut off, or no tar`))
      return true
    })
  }
  const broken = Buffer.from(whole)
  broken.fill(0x41, whole.indexOf(Buffer.from('c/cougar.webp')), whole.indexOf(Buffer.from('c/cougar.webp')) + 512)
  const input = await write('broken', { 'broken.tar': broken })
  const seen: string[] = []
  await assert.rejects(
    async () => {
      for await (const { key } of (await open(join(input, 'broken.tar'))).items({ image: 0 })) seen.push(key)
    },
    (error: Error) => {
      assert.match(error.message, /broken.tar cannot be read on as a tar/)
      return true
    },
  )
  assert.deepEqual(seen, ['a/airplane'])
})

test('the file that Hugging Face datasets wrote: image structs, paths as keys, class names', async () => {
  const source = await open(join(datasets, 'datasets.parquet'))
  assert.deepEqual(source.classes, ['animal', 'vehicle'])
  assert.deepEqual(source.size, { unit: 'images', count: 6 })
  assert.deepEqual(await outline(await all(source)), expected)
})

for (const compression of ['none', 'snappy', 'gzip', 'brotli', 'lz4']) {
  test(`a Parquet file of pyarrow with compression ${compression}: binary column, key column`, async () => {
    const input = join(datasets, `${compression}.parquet`)
    const source = await open(input)
    assert.equal(source.classes, undefined)
    assert.deepEqual(await outline(await all(source)), expected)
    const named = await open(input, { labelColumn: 'class' })
    assert.deepEqual(named.classes, ['animal', 'vehicle'])
    assert.deepEqual(await outline(await all(named)), expected)
  })
}

test('a Parquet file with several columns of bytes: one is named', async () => {
  const input = join(datasets, 'zstd.parquet')
  await refused(open(input), /bytes, other hold bytes; name .* --image-column/)
  assert.deepEqual(await outline(await all(await open(input, { imageColumn: 'other' }))), expected)
  await refused(open(input, { imageColumn: 'pixels' }), /no column pixels; it has key, bytes, other, class, label/)
  await refused(open(input, { imageColumn: 'class' }), /class holds no bytes/)
  const bytesAsLabels = { imageColumn: 'bytes', labelColumn: 'other' }
  await refused(open(input, bytesAsLabels), /the column other holds bytes, no labels/)
  await refused(open(join(datasets, 'odd.tar'), { imageColumn: 'image' }), /are for Parquet/)
})

test('a row of Parquet without an image or a label fails by itself', async () => {
  assert.deepEqual(await outline(await all(await open(join(datasets, 'odd.parquet')))), [
    ['airplane', 1, 'airplane'],
    ['1', 0, 'has no bytes'],
    ['2', undefined, 'has no label'],
  ])
})

test('class names of Parquet that occur twice are refused, and an empty label is none', async () => {
  const file = (label: (string | number)[], names?: string[]) =>
    Buffer.from(
      parquetWriteBuffer({
        columnData: [
          { name: 'image', data: bytes.slice(0, label.length), type: 'BYTE_ARRAY' },
          { name: 'label', data: label, type: names ? 'INT64' : 'STRING' },
        ],
        ...(names && {
          kvMetadata: [{ key: 'huggingface', value: JSON.stringify({ info: { features: { label: { names } } } }) }],
        }),
      }),
    )
  const input = await write('class-names', {
    'twice.parquet': file([0n, 1n, 2n] as never, ['crane', 'emu', 'crane']),
    'empty.parquet': file(['', 'emu']),
  })
  const twice = join(input, 'twice.parquet')
  await refused(open(twice), /twice.parquet: two classes of the column label have the name "crane"/)
  assert.equal((await all(await open(twice, { labels: 'none' }))).length, 3)
  const empty = await open(join(input, 'empty.parquet'))
  assert.deepEqual(empty.classes, ['emu'])
  assert.deepEqual(await outline(await all(empty)), [
    ['0', undefined, 'has no label'],
    ['1', 0, 'car'],
  ])
})

test('a Parquet file that is cut off is an error that names it', async () => {
  const input = await write('cut', { 'cut.parquet': fixture('datasets/snappy.parquet').subarray(0, 20_000) })
  await assert.rejects(open(join(input, 'cut.parquet')), /cut.parquet is no Parquet file, or is cut off/)
})

test('several Parquet files are one data set', async () => {
  const input = join(folder, 'parquets')
  await mkdir(input)
  for (const [to, from] of [
    ['a', 'none'],
    ['b', 'gzip'],
  ]) {
    await cp(join(datasets, `${from}.parquet`), join(input, `${to}.parquet`))
  }
  const source = await open(input)
  assert.deepEqual(await outline(await all(source)), [...expected, ...expected])
  await cp(join(datasets, 'datasets.parquet'), join(input, 'c.parquet'))
  await refused(open(input), /c.parquet has no column/)
})

test('every source goes on from any of its items', async () => {
  const inputs = ['photos-{000000..000001}.tar', 'pax.tar', 'gnu.tar', 'odd.tar', 'datasets.parquet', 'none.parquet']
  for (const input of [
    ...inputs.map((name) => join(datasets, name)),
    join(folder, 'folder'),
    join(folder, 'list/plain.txt'),
  ]) {
    const source = await open(input)
    const items = await all(source)
    const whole = await outline(items)
    assert.ok(items.length > 2)
    assert.equal(items.at(-1)?.done, items.length === source.size.count ? source.size.count : items.at(-1)?.done)
    for (const [i, { next, index, done }] of items.entries()) {
      assert.equal(index, i)
      assert.ok(done <= source.size.count && done > (items[i - 1]?.done ?? 0))
      const rest = await all(source, JSON.parse(JSON.stringify(next)))
      assert.deepEqual(await outline(rest), whole.slice(i + 1), `${input} from ${i}`)
      assert.equal(rest[0]?.index ?? i + 1, i + 1)
    }
  }
})

test('parts are contiguous, and make up the whole', async () => {
  const sharded = join(datasets, 'photos-{000000..000001}.tar')
  for (const [input, counts] of [
    [sharded, [1, 2]],
    [join(datasets, 'none.parquet'), [1, 2, 4, 9]],
    [join(folder, 'folder'), [1, 2, 4, 30]],
    [join(folder, 'list/plain.txt'), [3]],
  ] as const) {
    const whole = (await all(await open(input))).map(({ key }) => key)
    for (const count of counts) {
      const parts = await Promise.all(
        Array.from({ length: count }, async (_, index) => all(await open(input, { part: { index, count } }))),
      )
      assert.deepEqual(
        parts.flat().map(({ key }) => key),
        whole,
      )
      for (const part of parts)
        assert.deepEqual(
          part.map(({ index }) => index),
          part.map((_, i) => i),
        )
      const lengths = parts.map(({ length }) => length)
      assert.ok(Math.max(...lengths) - Math.min(...lengths) <= 1)
    }
  }
  await refused(open(sharded, { part: { index: 2, count: 3 } }), /2 shards, which cannot be split into 3 parts/)
})

test('labels from a CSV file, by key', async () => {
  const input = join(datasets, 'photos-000000.tar')
  const csv = join(
    await write('csv', { 'labels.csv': 'label,key\nplane,a/airplane\n"big, cat",c/cougar\n' }),
    'labels.csv',
  )
  const source = await open(input, { labels: { csv } })
  assert.deepEqual(source.classes, ['big, cat', 'plane'])
  assert.deepEqual(await outline(await all(source)), [
    ['a/airplane', 1, 'airplane'],
    ['c/car', undefined, `has no label in ${csv}`],
    ['c/cougar', 0, 'cougar'],
  ])
  assert.notEqual(source.digest, (await open(input)).digest)
  for (const [text, message] of [
    ['file,label\na,1\n', /columns key and label/],
    ['key,label\na,1\na,2\n', /two labels for "a"/],
    ['key,label\na,1,2\n', /labels.csv: /],
    ['', /labels.csv has no labels/],
    ['key,label\n', /labels.csv has no labels/],
    ['key,label\na/airplane,1\n\nc/car,\n', /labels.csv: line 4 has no label/],
    ['key,label\n,1\n', /labels.csv: line 2 has no key/],
    ['key,label\na/airplane.webp,1\n', /names none of the images: keys are like "a\/airplane", .*without a suffix/],
  ] as const) {
    await writeFile(csv, text)
    await refused(open(input, { labels: { csv } }), message)
  }
})

test('patterns of names', () => {
  assert.deepEqual(expand('a-{08..10}.tar'), ['a-08.tar', 'a-09.tar', 'a-10.tar'])
  assert.deepEqual(expand('{0..1}/{9..10}'), ['0/9', '0/10', '1/9', '1/10'])
  assert.throws(() => expand('a-{3..2}.tar'), /\{3\.\.2\} is not a range/)
})
