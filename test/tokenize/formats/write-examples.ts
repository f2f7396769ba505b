/**
 * Writes the same rows in every format and layout, for readers in other languages: `write-examples.ts OUT` makes
 * OUT/NAME/FORMAT/... and OUT/NAME/truth.json.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { formats } from '../../../src/tokenize/formats/index.ts'
import { dataSet, makeRows } from './support.ts'

const [, , out] = process.argv
if (out === undefined) throw new Error('usage: write-examples.ts OUT')
const classes = Array.from({ length: 12 }, (_, i) => `class ${i}`)
const sets = {
  one: dataSet({ classes }),
  two: dataSet({ views: 2 }),
  ten: dataSet({ views: 10, codebookSize: 65536 }),
  unlabelled: dataSet({ labels: false }),
}
for (const [name, set] of Object.entries(sets)) {
  const rows = makeRows(24, set)
  await mkdir(join(out, name), { recursive: true })
  const truth = { ...set, rows: rows.map((row) => ({ ...row, tokens: [...row.tokens] })) }
  await writeFile(join(out, name, 'truth.json'), JSON.stringify(truth))
  for (const format of Object.values(formats)) {
    if (!set.labels && ['llamagen', 'randar', 'jsonl'].includes(format.name)) continue
    const folder = join(out, name, format.name)
    await mkdir(folder)
    const writer = await format.open(folder, set, undefined)
    await writer.write(rows)
    await writer.finish()
  }
}
