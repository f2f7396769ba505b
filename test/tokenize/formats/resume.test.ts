import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { appendFile, mkdtemp, readdir, rm, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import type { DataSet, Format, Mark, Row } from '../../../src/tokenize/formats/format.ts'
import { formats } from '../../../src/tokenize/formats/index.ts'
import { filesUnder } from '../../../src/tokenize/formats/output-files.ts'
import { contents, dataSet, makeRows, temporaryFolder } from './support.ts'

const ROWS = 24

/** What a run does before it is killed. `lost`: the kill comes after the last commit, before its mark is on record. */
interface Run {
  steps: ({ write: number } | 'commit')[]
  finish: boolean
  lost: boolean
}

const runs: fc.Arbitrary<Run[]> = fc.array(
  fc.record({
    steps: fc.array(fc.oneof(fc.record({ write: fc.integer({ min: 1, max: 8 }) }), fc.constant('commit' as const)), {
      maxLength: 8,
    }),
    finish: fc.boolean(),
    lost: fc.boolean(),
  }),
  { maxLength: 5 },
)

interface Committed {
  mark: Mark
  rows: number
  /** Sizes of all files then: what is beyond may be lost, or anything. */
  sizes: Map<string, number>
}

async function sizes(out: string): Promise<Map<string, number>> {
  const names = await filesUnder(out)
  return new Map(await Promise.all(names.map(async (name) => [name, (await stat(join(out, name))).size] as const)))
}

/** Leaves of what is younger than the commit what a lost machine may leave: all, a part, nothing, garbage. */
async function damage(out: string, committed: Committed | undefined, random: () => number) {
  for (const [name, size] of await sizes(out)) {
    const safe = committed?.sizes.get(name)
    if (safe !== undefined && safe >= size) continue
    const path = join(out, name)
    const kind = Math.floor(random() * 4)
    if (kind === 0) await appendFile(path, randomBytes(1 + Math.floor(random() * 2000)))
    else if (kind === 1 && safe === undefined) await rm(path)
    else if (kind < 3) {
      const kept = (safe ?? 0) + Math.floor(random() * (size - (safe ?? 0)))
      await truncate(path, kept)
      if (random() < 0.5) await appendFile(path, randomBytes(size - kept))
    }
  }
}

/** Other rows, and more of them. */
function othersOf(rows: readonly Row[], set: DataSet): Row[] {
  return makeRows(ROWS + 20, set).map((row, number) => ({
    ...row,
    key: `other ${number}`,
    label: rows[(number + 1) % ROWS]?.label,
    tokens: row.tokens.map((id) => (id + 1) % set.codebookSize),
  }))
}

/**
 * What is written after the last mark on record is not what the run that goes on will write there, nor as much: images that
 * failed then may not fail now.
 */
async function runOnce(
  format: Format,
  out: string,
  set: DataSet,
  rows: readonly Row[],
  { steps, finish, lost }: Run,
  committed: Committed | undefined,
): Promise<Committed | undefined> {
  const commits = steps.flatMap((step, i) => (step === 'commit' ? [i] : []))
  const recorded = commits.at(lost && steps.at(-1) === 'commit' ? -2 : -1) ?? -1
  const others = othersOf(rows, set)
  const writer = await format.open(out, set, committed?.mark)
  let last = committed
  let at = committed?.rows ?? 0
  for (const [i, step] of steps.entries()) {
    if (step !== 'commit') {
      const batch = (i < recorded ? rows : others).slice(at, at + step.write)
      await writer.write(batch)
      at += batch.length
      continue
    }
    const mark: Mark = JSON.parse(JSON.stringify(await writer.commit()))
    if (i <= recorded) last = { mark, rows: at, sizes: await sizes(out) }
  }
  if (finish) await writer.finish()
  // Closes the files and no more.
  else await writer.abort()
  return last
}

const sets: [string, Partial<DataSet>][] = [
  ['one view', {}],
  ['two views, class names', { views: 2, classes: Array.from({ length: 12 }, (_, i) => `class ${i}`) }],
  ['ten crops', { views: 10, length: 5, codebookSize: 65536 }],
  ['no labels', { labels: false }],
]

for (const format of Object.values(formats)) {
  for (const [name, changes] of sets) {
    const set = dataSet(changes)
    if (!set.labels && ['llamagen', 'randar', 'jsonl'].includes(format.name)) continue
    test(`${format.name}, ${name}: killed anywhere, a run that goes on leaves the same bytes`, async (t) => {
      const folder = await temporaryFolder(t)
      const rows = makeRows(ROWS, set)
      const undisturbed = await mkdtemp(join(folder, 'whole-'))
      const writer = await format.open(undisturbed, set, undefined)
      await writer.write(rows)
      const files = await writer.finish()
      const expected = await contents(undisturbed)
      assert.ok(Object.keys(expected).length > 0)

      await fc.assert(
        fc.asyncProperty(
          runs,
          fc.noBias(fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true }))),
          async (plan, numbers) => {
            const random = () => numbers.next().value as number
            const out = await mkdtemp(join(folder, 'killed-'))
            let committed: Committed | undefined
            for (const run of plan) {
              committed = await runOnce(format, out, set, rows, run, committed)
              await damage(out, committed, random)
            }
            const last = await format.open(out, set, committed?.mark)
            await last.write(rows.slice(committed?.rows ?? 0))
            await last.commit()
            assert.deepEqual(await last.finish(), files)
            assert.deepEqual(await contents(out), expected)
            await rm(out, { recursive: true })
          },
        ),
        { numRuns: 15 },
      )
      assert.deepEqual((await readdir(folder)).length, 1)
    })
  }
}
