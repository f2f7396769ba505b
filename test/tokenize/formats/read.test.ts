import assert from 'node:assert/strict'
import { cp, mkdir, mkdtemp, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { OptionsError } from '../../../src/tokenize/errors.ts'
import { type DataSet, type Format, FormatError, type Row } from '../../../src/tokenize/formats/format.ts'
import { formats } from '../../../src/tokenize/formats/index.ts'
import { memberKey } from '../../../src/tokenize/formats/webdataset.ts'
import { dataSet, makeRows, temporaryFolder } from './support.ts'

async function write(format: Format, out: string, set: DataSet, count: number) {
  const rows = makeRows(count, set)
  const writer = await format.open(out, set, undefined)
  await writer.write(rows)
  return { rows, files: await writer.finish() }
}

async function read(format: Format, out: string, set: DataSet, count: number) {
  const rows: Row[] = []
  for await (const row of format.read(out, set, count)) rows.push(row)
  return rows
}

test('webdataset keeps neighbours with the same key apart, also where a run went on', async (t) => {
  const out = await temporaryFolder(t)
  const set = dataSet({ shardSize: 100 })
  const rows = makeRows(7, set).map((row, i) => ({ ...row, key: i < 5 ? 'a/same' : `other-${i}` }))
  const first = await formats.webdataset.open(out, set, undefined)
  await first.write(rows.slice(0, 2))
  const mark = await first.commit()
  await first.abort()
  const second = await formats.webdataset.open(out, set, mark)
  await second.write(rows.slice(2))
  await second.finish()
  assert.deepEqual(await read(formats.webdataset, out, set, 7), rows)
})

const needLabels = ['llamagen', 'randar', 'jsonl']

for (const format of Object.values(formats)) {
  test(`${format.name} gives back what was written`, async (t) => {
    const folder = await temporaryFolder(t)
    for (const changes of [{}, { views: 2 }, { views: 10, length: 3, codebookSize: 65536 }, { labels: false }]) {
      const set = dataSet(changes)
      if (!set.labels && needLabels.includes(format.name)) continue
      for (const count of [0, 1, 5, 23]) {
        const out = await mkdtemp(join(folder, 'out-'))
        const { rows } = await write(format, out, set, count)
        assert.deepEqual(await read(format, out, set, count), rows)
      }
    }
  })

  test(`${format.name} gives back more rows than fit in a block`, async (t) => {
    const out = await temporaryFolder(t)
    const set = dataSet({ length: 4096, views: 10, shardSize: 100 })
    const { rows } = await write(format, out, set, 60)
    assert.deepEqual(await read(format, out, set, 60), rows)
  })

  test(`${format.name} refuses an output of other rows, views or length`, async (t) => {
    const out = await temporaryFolder(t)
    const set = dataSet({ views: 2 })
    await write(format, out, set, 12)
    for (const [changes, count] of [
      [{}, 11],
      [{}, 13],
      [{ views: 1 }, 12],
      [{ length: 8 }, 12],
    ] as const) {
      // LlamaGen's files of one image tell nothing of those of others: fewer rows end at keys.txt.
      await assert.rejects(read(format, out, { ...set, ...changes }, count), FormatError)
    }
  })

  test(`${format.name} names the file that is missing or cut off`, async (t) => {
    const folder = await temporaryFolder(t)
    const whole = join(folder, 'whole')
    await mkdir(whole)
    const set = dataSet()
    const { files } = await write(format, whole, set, 12)
    for (const { path, bytes } of files) {
      const names = path.endsWith('/')
        ? [`${path}${format.name === 'randar' ? `${makeRows(12, set)[3]?.label}/3` : 3}.npy`]
        : [path]
      for (const name of names) {
        for (const harm of ['missing', 'cut'] as const) {
          const out = join(folder, 'harmed')
          await cp(whole, out, { recursive: true })
          if (harm === 'missing') await rm(join(out, name))
          else await truncate(join(out, name), path.endsWith('/') ? 150 : Math.floor(bytes / 2))
          await assert.rejects(read(format, out, set, 12), (error: Error) => {
            assert.ok(error instanceof FormatError, error.stack)
            if (!(harm === 'missing' && format.name === 'randar' && path.endsWith('/')))
              assert.match(error.message, new RegExp(name.split('/').at(-1) as string))
            return true
          })
          await rm(out, { recursive: true })
        }
      }
    }
  })
}

test('formats whose loaders need labels refuse a data set without them', () => {
  const set = dataSet({ labels: false })
  for (const format of Object.values(formats)) {
    if (needLabels.includes(format.name)) assert.throws(() => format.check(set), OptionsError)
    else format.check(set)
    format.check(dataSet())
  }
})

test('an output that is shorter than its mark is refused, not padded', async (t) => {
  for (const format of Object.values(formats)) {
    const out = await temporaryFolder(t)
    const set = dataSet()
    const writer = await format.open(out, set, undefined)
    await writer.write(makeRows(3, set))
    const mark = await writer.commit()
    await writer.abort()
    const shortest = { jsonl: 'tokens.jsonl', webdataset: 'tokens-000000.tar', parquet: '.tokenize/shard-00000.rows' }
    const name = (shortest as Record<string, string>)[format.name] ?? 'keys.txt'
    await truncate(join(out, name), 4)
    await assert.rejects(format.open(out, set, mark), FormatError)
  }
})

test('member keys are distinct, and tell readers one sample from the next', () => {
  const keys = [
    'a.b',
    'a%2Eb',
    'a%252Eb',
    'a.c/d',
    '../x',
    '%2E%2E/x',
    './x',
    'x',
    '/x',
    '%/x',
    '//x',
    '__a__/x',
    '%5F_a__/x',
    '__x__',
    '_x',
    '',
    '%',
    'a/',
    'a\0b',
    '.hidden',
    '狗.猫',
  ]
  const members = keys.map(memberKey)
  assert.equal(new Set(members).size, keys.length)
  for (const member of members) {
    const base = member.split('/').at(-1) as string
    assert.match(base, /^[^.\p{Cc}]+$/u)
    assert.doesNotMatch(member, /^__[^/]*__(\/|$)|^\/|(^|\/)\.{1,2}\//)
  }
  assert.equal(memberKey('n01440764/n01440764_10026'), 'n01440764/n01440764_10026')
  assert.equal(memberKey('v1.2/photo.final'), 'v1.2/photo%2Efinal')
})

test('a tar that is cut off between two members is refused', async (t) => {
  const out = await temporaryFolder(t)
  const set = dataSet()
  await write(formats.webdataset, out, set, 3)
  const name = join(out, 'tokens-000000.tar')
  const bytes = await readFile(name)
  await writeFile(name, bytes.subarray(0, -1024))
  await assert.rejects(read(formats.webdataset, out, set, 3), /tokens-000000\.tar is cut off/)
})

test('files of RandAR and LlamaGen in the wrong place are found', async (t) => {
  const folder = await temporaryFolder(t)
  const set = dataSet()
  const codes = join(folder, 'codes')
  const { rows } = await write(formats.randar, folder, set, 6)
  const label = `${rows[0]?.label}`
  await rename(join(codes, label), join(codes, `0${label}`))
  await assert.rejects(read(formats.randar, folder, set, 6), /codes\/0\d+\/\d+\.npy is no file of this data set/)
  await rename(join(codes, `0${label}`), join(codes, label))
  await cp(join(codes, label, '0.npy'), join(codes, '777', '0.npy'))
  await assert.rejects(read(formats.randar, folder, set, 6), /image 0 is in the classes/)
})

test('ids that 16 bits do not hold are refused, not wrapped', async (t) => {
  const out = await temporaryFolder(t)
  const set = dataSet()
  const { rows } = await write(formats.randar, out, set, 1)
  const name = join(out, `codes/${rows[0]?.label}/0.npy`)
  const bytes = await readFile(name)
  for (const value of [-1n, 65536n, 2n ** 32n]) {
    bytes.writeBigInt64LE(value, 128)
    await writeFile(name, bytes)
    await assert.rejects(read(formats.randar, out, set, 1), /numbers outside 0\.\.65535/)
  }
})
