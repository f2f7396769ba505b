import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type DataSet, type Row, WORK } from '../../../src/tokenize/formats/format.ts'
import { filesUnder } from '../../../src/tokenize/formats/output-files.ts'

export function dataSet(changes: Partial<DataSet> = {}): DataSet {
  return { length: 16, views: 1, imageSize: 128, codebookSize: 4096, labels: true, shardSize: 5, ...changes }
}

/** Keys as sources have them: paths, dots, what an escape or a tar could trip over, other scripts, over 100 bytes. */
const keys = [
  'cat',
  'n01440764/n01440764_10026',
  'dog.v2',
  'dog.v3',
  './up/../x.y',
  '/root//a',
  '__meta__/b',
  'line\nbreak\rand\\n',
  '50%2E',
  '狗/猫\u2028',
  `${'long'.repeat(40)}`,
  `${'folder/'.repeat(20)}file`,
  '',
  'end/',
  '"quoted", comma',
]

/** `count` rows with distinct keys, the same ones each time. */
export function makeRows(count: number, { views, length, codebookSize, labels }: DataSet): Row[] {
  let state = 12345
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  return Array.from({ length: count }, (_, number) => ({
    number,
    key: number < keys.length ? (keys[number] as string) : `${keys[number % keys.length]}-${number}`,
    label: labels ? random(12) : undefined,
    // The first ids are the ends of the range, so that no type is too narrow for them.
    tokens: Uint16Array.from({ length: views * length }, (_, i) => [0, codebookSize - 1][i] ?? random(codebookSize)),
  }))
}

export async function temporaryFolder(t: Pick<TestContext, 'after'>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'tokenize-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** What an output holds: path -> bytes in hex. The folder for unfinished things, which the pipeline removes, is left out. */
export async function contents(out: string): Promise<Record<string, string>> {
  const names = (await filesUnder(out)).filter((name) => !name.startsWith(`${WORK}/`))
  const files = names.map(async (name) => [name, (await readFile(join(out, name))).toString('hex')])
  return Object.fromEntries(await Promise.all(files))
}
