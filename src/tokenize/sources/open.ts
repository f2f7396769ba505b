import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { parse } from 'csv-parse/sync'
import { ItemError, messageOf, OptionsError, unreadable } from '../errors.ts'
import { openFolder } from './folder.ts'
import { labelsOf } from './labels.ts'
import { openList, readText } from './list.ts'
import { openParquet } from './parquet.ts'
import { isPattern } from './shards.ts'
import type { Item, Part, Source } from './source.ts'
import { openTar } from './tar.ts'

export interface SourceOptions {
  /** A folder, a file, or a pattern of shards. */
  input: string
  /** `auto` takes labels as the data set has them; else a CSV file with the columns `key` and `label`. */
  labels: 'auto' | 'none' | { csv: string }
  part: Part
  /** For Parquet, where the columns' names do not tell. */
  imageColumn: string | undefined
  labelColumn: string | undefined
  /** Receives a sentence before something that takes long. */
  say(line: string): void
}

/**
 * Opens a data set.
 * @throws OptionsError if it is none; Error if one of its files is damaged
 */
export async function openSource(options: SourceOptions): Promise<Source> {
  const { input, part, say, imageColumn, labelColumn } = options
  if (input === '') throw new OptionsError('the input is empty')
  const kind = await kindOf(input)
  if (kind !== 'parquet' && (imageColumn ?? labelColumn) !== undefined) {
    throw new OptionsError(`--image-column and --label-column are for Parquet, and ${input} is not`)
  }
  const labels = options.labels === 'auto'
  const source = await {
    folder: () => openFolder(input, { labels, part }),
    list: () => openList(input, { labels, part }),
    tar: () => openTar(input, { labels, part, say }),
    parquet: () => openParquet(input, { labels, part, imageColumn, labelColumn }),
  }[kind]()
  return typeof options.labels === 'object' ? withLabels(source, options.labels.csv) : source
}

async function kindOf(input: string): Promise<Source['kind']> {
  if (isPattern(input)) return kindOfFile(input)
  const found = await stat(input).catch((error: unknown) => {
    throw unreadable(input, error)
  })
  if (!found.isDirectory()) return kindOfFile(input)
  const names = await readdir(input)
  const has = (suffix: string) => names.some((name) => name.endsWith(suffix) && !name.startsWith('.'))
  if (has('.tar') && has('.parquet')) throw new OptionsError(`${input} holds tars and Parquet files: name one kind`)
  return has('.tar') ? 'tar' : has('.parquet') ? 'parquet' : 'folder'
}

function kindOfFile(path: string): Source['kind'] {
  if (path.endsWith('.tar')) return 'tar'
  if (path.endsWith('.parquet')) return 'parquet'
  if (path.endsWith('.txt') || path.endsWith('.tsv')) return 'list'
  throw new OptionsError(
    `${path} is no data set: it must be a folder, a .tar, a .parquet, or a list of paths in a .txt or .tsv`,
  )
}

/**
 * Takes labels from a CSV file by key. An image that it does not name fails.
 * @throws OptionsError if it is no such file, or names none of the images
 */
async function withLabels(source: Source, csv: string): Promise<Source> {
  const text = await readText(csv)
  const byKey = new Map<string, string>()
  for (const { key, label } of readCsv(text, csv)) {
    if (byKey.has(key)) throw new OptionsError(`${csv} has two labels for ${JSON.stringify(key)}`)
    byKey.set(key, label)
  }
  if (byKey.size === 0) throw new OptionsError(`${csv} has no labels`)
  await checkNamesAny(source, byKey, csv)
  const labels = labelsOf(new Set(byKey.values()))
  const missing = new ItemError(`has no label in ${csv}`)

  async function* items(from: Parameters<Source['items']>[0]): AsyncGenerator<Item> {
    for await (const item of source.items(from)) {
      const label = byKey.get(item.key)
      yield label === undefined
        ? { ...item, read: () => Promise.reject(missing) }
        : { ...item, label: labels.of(label) }
    }
  }
  return {
    ...source,
    digest: createHash('sha256').update(source.digest).update(text).digest('hex'),
    labels: true,
    classes: labels.classes,
    items,
  }
}

/** Looks for the first image that the labels name: mostly the first one of all. */
async function checkNamesAny(source: Source, byKey: ReadonlyMap<string, string>, csv: string): Promise<void> {
  let first: string | undefined
  for await (const { key } of source.items({ image: 0 })) {
    if (byKey.has(key)) return
    first ??= key
  }
  if (first === undefined) return
  throw new OptionsError(
    `${csv} names none of the images: keys are like ${JSON.stringify(first)}, with folders and mostly without a suffix`,
  )
}

function readCsv(text: string, csv: string): { key: string; label: string }[] {
  let rows: { record: Record<string, string>; info: { lines: number } }[]
  try {
    rows = parse(text, { columns: true, bom: true, skip_empty_lines: true, trim: true, info: true })
  } catch (error) {
    throw new OptionsError(`${csv}: ${messageOf(error)}`)
  }
  return rows.map(({ record: { key, label }, info: { lines } }) => {
    if (key === undefined || label === undefined) {
      throw new OptionsError(`${csv} must have the columns key and label on every line, with their names on the first`)
    }
    if (key === '' || label === '') {
      throw new OptionsError(`${csv}: line ${lines} has no ${key === '' ? 'key' : 'label'}`)
    }
    return { key, label }
  })
}
