import { createHash } from 'node:crypto'
import { dirname, resolve } from 'node:path'
import {
  type AsyncBuffer,
  asyncBufferFromFile,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { ItemError, OptionsError, readFailed } from '../errors.ts'
import { readImage } from './folder.ts'
import { integerLabels, type Labels, labelsOf } from './labels.ts'
import { type Shard, shardsOf } from './shards.ts'
import { type Item, type Part, type Position, type Source, sliceOf, withoutSuffix } from './source.ts'

interface ParquetOptions {
  labels: boolean
  part: Part
  imageColumn: string | undefined
  labelColumn: string | undefined
}

/** A file with the rows before it, and where its row groups end. */
interface File {
  path: string
  before: number
  /** Rows up to the end of each row group. */
  ends: number[]
}

interface Columns {
  image: string
  label: string | undefined
  key: string | undefined
}

/** A row with the columns that are read. */
type Values = Record<string, unknown>

/**
 * Parquet files with an image column: the struct of bytes and path that Hugging Face datasets writes, or plain binary. Row
 * groups are read one at a time, whole. The key is a column called `key` or `__key__`, else the image's path without its
 * suffix, else the row's number. Labels are integers, or names that are ranked in string order; class names of a
 * `ClassLabel` are kept.
 *
 * @throws OptionsError naming the column or file at fault
 */
export async function openParquet(input: string, options: ParquetOptions): Promise<Source> {
  const shards = await shardsOf(input, '.parquet')
  const digest = createHash('sha256')
  const files: File[] = []
  let columns: Columns | undefined
  let classes: string[] | undefined
  let rows = 0
  for (const { path, name, bytes } of shards) {
    const { metadata } = await openFile(path)
    if (columns === undefined) {
      columns = columnsOf(metadata, path, options)
      if (columns.label !== undefined) classes = classNames(metadata, path, columns.label)
    }
    checkColumns(metadata, path, columns)
    let end = 0
    const ends = metadata.row_groups.map((group) => {
      end += Number(group.num_rows)
      return end
    })
    files.push({ path, before: rows, ends })
    rows += end
    digest.update(`${name}\t${bytes}\t${end}\0`)
  }
  if (columns === undefined || rows === 0) throw new OptionsError(`${input} holds no rows`)
  digest.update(JSON.stringify(columns))
  const read = columns
  const labels = await labelsIn(shards, columns)
  const [start, end] = sliceOf(rows, options.part)

  async function* items({ image }: Position): AsyncGenerator<Item> {
    for (const file of files) {
      const last = file.before + (file.ends.at(-1) ?? 0)
      const from = Math.max(start + image, file.before)
      if (from >= Math.min(last, end)) continue
      for await (const [row, values] of rowsIn(file, read, from - file.before, Math.min(last, end) - file.before)) {
        const number = file.before + row
        const index = number - start
        const label = labels && attemptLabel(labels, values[read.label ?? ''])
        yield {
          ...{ index, key: keyOf(values, read, number), next: { image: index + 1 }, done: index + 1 },
          label: typeof label === 'number' ? label : undefined,
          read: async () => {
            if (label instanceof ItemError) throw label
            return bytesOf(values[read.image], dirname(file.path))
          },
        }
      }
    }
  }
  return {
    kind: 'parquet',
    size: { unit: 'images', count: end - start },
    digest: digest.digest('hex'),
    labels: labels !== undefined,
    classes: classes ?? labels?.classes,
    items,
  }
}

/** Rows `from` to `to` of a file, row group by row group, with their numbers. */
async function* rowsIn(file: File, columns: Columns, from: number, to: number): AsyncGenerator<[number, Values]> {
  const { buffer, metadata } = await openFile(file.path)
  let row = from
  for (const end of file.ends) {
    if (end <= row || row >= to) continue
    const stop = Math.min(end, to)
    const values = await readRows(file.path, buffer, metadata, Object.values(columns).filter(isText), row, stop)
    for (const one of values) yield [row++, one]
  }
}

async function readRows(
  path: string,
  file: AsyncBuffer,
  metadata: FileMetaData,
  columns: string[],
  rowStart: number,
  rowEnd: number,
): Promise<Values[]> {
  try {
    // Otherwise bytes that no type describes would be read as text.
    return await parquetReadObjects({ file, metadata, columns, rowStart, rowEnd, compressors, utf8: false })
  } catch (error) {
    throw readFailed(`${path} cannot be read on as Parquet`, error)
  }
}

async function openFile(path: string): Promise<{ buffer: AsyncBuffer; metadata: FileMetaData }> {
  try {
    const buffer = await asyncBufferFromFile(path)
    return { buffer, metadata: await parquetMetadataAsync(buffer) }
  } catch (error) {
    throw readFailed(`${path} is no Parquet file, or is cut off`, error)
  }
}

interface Column {
  name: string
  /** Whether it holds bytes, or a struct with bytes. */
  image: boolean
}

function columnsIn(metadata: FileMetaData): Column[] {
  return parquetSchema(metadata).children.map(({ element, children }) => {
    const bytes = children.length > 0 ? children.find((child) => child.element.name === 'bytes')?.element : element
    const image =
      bytes?.type === 'BYTE_ARRAY' && bytes.converted_type !== 'UTF8' && bytes.logical_type?.type !== 'STRING'
    return { name: element.name, image }
  })
}

function columnsOf(metadata: FileMetaData, path: string, options: ParquetOptions): Columns {
  const columns = columnsIn(metadata)
  const names = columns.map(({ name }) => name)
  const missing = [options.imageColumn, options.labelColumn].find((name) => name !== undefined && !names.includes(name))
  if (missing !== undefined) throw new OptionsError(`${path} has no column ${missing}; it has ${names.join(', ')}`)
  const images = columns.filter(({ image }) => image).map(({ name }) => name)
  if (options.imageColumn !== undefined && !images.includes(options.imageColumn)) {
    throw new OptionsError(`${path}: the column ${options.imageColumn} holds no bytes`)
  }
  const image = options.imageColumn ?? (images.length === 1 ? images[0] : images.find((name) => name === 'image'))
  if (image === undefined) {
    const found = images.length === 0 ? 'no column holds bytes' : `${images.join(', ')} hold bytes`
    throw new OptionsError(`${path}: ${found}; name the images' column with --image-column`)
  }
  const label = options.labelColumn ?? ['label', 'labels', 'cls'].find((name) => names.includes(name))
  if (options.labels && label !== undefined && images.includes(label)) {
    throw new OptionsError(`${path}: the column ${label} holds bytes, no labels`)
  }
  const key = ['key', '__key__'].find((name) => names.includes(name) && !images.includes(name))
  return { image, label: options.labels ? label : undefined, key }
}

function checkColumns(metadata: FileMetaData, path: string, columns: Columns): void {
  const names = columnsIn(metadata).map(({ name }) => name)
  const missing = Object.values(columns).find((name) => isText(name) && !names.includes(name))
  if (missing !== undefined) throw new OptionsError(`${path} has no column ${missing}, unlike the first file`)
}

/**
 * The names of a ClassLabel column, from the metadata that Hugging Face datasets writes.
 * @throws OptionsError if two classes have the same name
 */
function classNames(metadata: FileMetaData, path: string, column: string): string[] | undefined {
  const text = metadata.key_value_metadata?.find(({ key }) => key === 'huggingface')?.value
  let names: unknown
  try {
    names = JSON.parse(text ?? '{}').info?.features?.[column]?.names
  } catch {
    return undefined
  }
  if (!Array.isArray(names) || !names.every(isText)) return undefined
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) {
    throw new OptionsError(`${path}: two classes of the column ${column} have the name ${JSON.stringify(twice)}`)
  }
  return names
}

/** How labels are written. Where they are names, all of them are read, from their column alone. */
async function labelsIn(shards: Shard[], { label }: Columns): Promise<Labels | undefined> {
  if (label === undefined) return undefined
  const names = new Set<string>()
  for (const { path } of shards) {
    const { buffer, metadata } = await openFile(path)
    let start = 0
    for (const group of metadata.row_groups) {
      const end = start + Number(group.num_rows)
      for (const row of await readRows(path, buffer, metadata, [label], start, end)) {
        const value = row[label]
        if (typeof value === 'number' || typeof value === 'bigint') return integerLabels
        if (isText(value) && value !== '') names.add(value)
      }
      start = end
    }
  }
  return labelsOf(names)
}

function attemptLabel(labels: Labels, value: unknown): number | ItemError {
  if (value === null || value === undefined || value === '') return new ItemError('has no label')
  try {
    return labels.of(String(value))
  } catch (error) {
    if (error instanceof ItemError) return error
    throw error
  }
}

function keyOf(values: Values, columns: Columns, number: number): string {
  const key = columns.key === undefined ? undefined : values[columns.key]
  if (key !== null && key !== undefined) return String(key)
  const path = (values[columns.image] as { path?: unknown } | null)?.path
  return isText(path) && path !== '' ? withoutSuffix(path) : String(number)
}

async function bytesOf(value: unknown, folder: string): Promise<Buffer> {
  const { bytes = value, path } =
    value instanceof Uint8Array ? {} : ((value ?? {}) as { bytes?: unknown; path?: unknown })
  if (bytes instanceof Uint8Array) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (isText(path) && path !== '') return readImage(resolve(folder, path))
  throw new ItemError('has no bytes')
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}
