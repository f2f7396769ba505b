import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf } from '../errors.ts'
import { FormatError, type OutputFile, type Row, WORK } from '../formats/format.ts'
import { formats } from '../formats/index.ts'
import { describe, filesUnder } from '../formats/output-files.ts'
import { dataSetOf, type Manifest } from '../manifest.ts'

/** What a check found out, in a sentence without a full stop. */
export interface Finding {
  check: string
  /** Undefined: it could not be checked. */
  ok: boolean | undefined
  says: string
}

/** Sources that may have a key several times: tars each begin anew, and Parquet has the keys that its rows have. */
const repeats: readonly string[] = ['tar', 'parquet']

/** Names that are said of many. */
const MOST_NAMES = 3

/** Whether every file of the manifest is there with the bytes it had, and whether there are others. */
export async function* checkFiles(out: string, files: readonly OutputFile[]): AsyncGenerator<Finding> {
  let bytes = 0
  const wrong: string[] = []
  for (const file of files) {
    bytes += file.bytes
    const difference = await differenceOf(out, file)
    if (difference) wrong.push(difference)
  }
  for (const says of wrong) yield { check: 'files', ok: false, says }
  if (wrong.length === 0) {
    yield {
      check: 'files',
      ok: true,
      says: `${plural(files.length, 'entry', 'entries')} of ${bytes} bytes as tokens.json has them`,
    }
  }
  const known = (name: string) =>
    name === 'tokens.json' ||
    name.startsWith(`${WORK}/`) ||
    files.some(({ path }) => (path.endsWith('/') ? name.startsWith(path) : name === path))
  const others = (await filesUnder(out)).filter((name) => !known(name))
  if (others.length > 0) {
    const more = others.length > MOST_NAMES ? ` and ${others.length - MOST_NAMES} more` : ''
    yield { check: 'files', ok: false, says: `not of this output: ${others.slice(0, MOST_NAMES).join(', ')}${more}` }
  }
}

async function differenceOf(out: string, expected: OutputFile): Promise<string | undefined> {
  const { path } = expected
  let found: OutputFile
  try {
    found = await describe(out, path)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? `${path} is missing` : messageOf(error)
  }
  if (found.files !== expected.files) return `${path} has ${found.files} files instead of ${expected.files}`
  if (found.bytes !== expected.bytes) return `${path} has ${found.bytes} bytes instead of ${expected.bytes}`
  if (found.sha256 !== expected.sha256) return `${path} has changed: its sha256 is not that of tokens.json`
  return undefined
}

/** Positions in the source of the images that failed, line by line; undefined for a line that has none. */
export async function readFailures(out: string): Promise<(number | undefined)[]> {
  const text = await readFile(join(out, 'errors.jsonl'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw error
  })
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(indexIn)
}

function indexIn(line: string): number | undefined {
  try {
    const { index } = JSON.parse(line)
    return Number.isSafeInteger(index) ? index : undefined
  } catch {
    return undefined
  }
}

/** Whether errors.jsonl and the manifest agree on how many images failed. */
export function checkErrors(failures: readonly (number | undefined)[], { counts }: Manifest): Finding {
  const check = 'errors'
  if (failures.length !== counts.errors) {
    return { check, ok: false, says: `errors.jsonl has ${failures.length} lines instead of ${counts.errors}` }
  }
  const odd = failures.findIndex((index, i) => index === undefined || index <= (failures[i - 1] ?? -1))
  if (odd >= 0) return { check, ok: false, says: `errors.jsonl: line ${odd + 1} has no index, or one out of order` }
  if (counts.rows + counts.errors !== counts.images) {
    const says = `${counts.rows} images and ${counts.errors} that failed are not the ${counts.images} of the source`
    return { check, ok: false, says }
  }
  return { check, ok: true, says: `${plural(counts.errors, 'image', 'images')} of ${counts.images} failed` }
}

/**
 * Reads all rows and checks ids, labels and keys.
 *
 * @param sample receives the rows whose numbers it wants
 */
export async function* checkRows(
  out: string,
  manifest: Manifest,
  sample: { wants(number: number): boolean; add(row: Row): void },
): AsyncGenerator<Finding> {
  const dataSet = dataSetOf(manifest)
  const { rows } = manifest.counts
  const { length, views, codebookSize, labels: labelled, classes } = dataSet
  const keys = new Set<string>()
  const sequences = new Set<string>()
  const labels = new Set<number>()
  const wrong = { ids: new Wrong(), keys: new Wrong(), labels: new Wrong() }
  let read = 0
  try {
    for await (const row of formats[manifest.format.name].read(out, dataSet, rows)) {
      const { key, label, tokens } = row
      read += 1
      const id = tokens.find((id) => id >= codebookSize)
      if (id !== undefined) wrong.ids.add(`${key} has the id ${id}`)
      const again = keys.has(key)
      if (again && !repeats.includes(manifest.source.kind)) wrong.keys.add(`${key} is there twice`)
      keys.add(key)
      sequences.add(createHash('md5').update(tokens).digest('base64'))
      if (label !== undefined) {
        labels.add(label)
        if (classes && label >= classes.length) wrong.labels.add(`${key} has the label ${label}`)
      }
      if (sample.wants(row.number)) sample.add(row)
    }
  } catch (error) {
    if (!(error instanceof FormatError)) throw error
    yield { check: 'rows', ok: false, says: `${error.message}; ids, keys and labels are not checked` }
    return
  }
  const shape = `${plural(views, 'view', 'views')} of ${plural(length, 'token', 'tokens')}`
  yield { check: 'rows', ok: true, says: `${plural(read, 'image', 'images')} with ${shape}` }
  yield wrong.ids.finding('ids', `all in 0..${codebookSize - 1}`)
  const shared = read - keys.size
  yield wrong.keys.finding('keys', shared > 0 ? `${shared} are those of other images as well` : 'all different')
  if (labelled) {
    if (labels.size !== manifest.counts.labels) {
      wrong.labels.add(`there are ${labels.size} different ones instead of ${manifest.counts.labels}`)
    }
    yield wrong.labels.finding(
      'labels',
      plural(labels.size, 'class', 'classes') + (classes ? ` of ${classes.length}` : ''),
    )
  }
  const alike = read - sequences.size
  yield {
    check: 'duplicates',
    ok: true,
    says: `${plural(alike, 'image has', 'images have')} the tokens of another one`,
  }
}

/** What is wrong with some of many: the first one and their number. */
class Wrong {
  #first: string | undefined
  #more = -1

  add(what: string): void {
    this.#first ??= what
    this.#more += 1
  }

  finding(check: string, fine: string): Finding {
    if (this.#first === undefined) return { check, ok: true, says: fine }
    return { check, ok: false, says: this.#first + (this.#more > 0 ? `, and ${this.#more} more` : '') }
  }
}

export function plural(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`
}
