import { createReadStream } from 'node:fs'
import { mkdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import {
  asyncBufferFromFile,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  type SchemaElement,
} from 'hyparquet'
import { ByteWriter, ParquetWriter } from 'hyparquet-writer'
import { syncFolder } from '../durable.ts'
import { AppendFile } from './append-file.ts'
import {
  type DataSet,
  type Format,
  FormatError,
  type Mark,
  MOST_ID,
  MOST_LABEL,
  missing,
  type OutputFile,
  type Row,
  WORK,
  type Writer,
} from './format.ts'
import { uint16Bytes, uint16Of } from './integers.ts'
import { describe } from './output-files.ts'
import { removeShards, shardName } from './shards.ts'

const FOLDER = 'data'
const SHARDS = { before: 'train-', digits: 5, after: '.parquet' }
/** Rows of the shard that is not written yet: Parquet cannot be appended to, this can. */
const PENDING = { before: 'pending-', digits: 5, after: '.rows' }
// A row group is built in memory, at about 30 bytes an id.
const GROUP_IDS = 2 ** 20

/**
 * Parquet as the Hub lays it out: data/train-00000.parquet and so on, a row per view with key string, label int64 where
 * there are labels, view int16 and tokens list<uint16>, and the features' types for `datasets` in the metadata.
 */
export const parquet: Format = {
  name: 'parquet',
  version: 1,

  check() {},

  async open(out, dataSet, mark) {
    const rows = Number(mark?.rows ?? 0)
    const { shard, begun } = place(rows, dataSet)
    await mkdir(join(out, FOLDER), { recursive: true })
    await mkdir(join(out, WORK), { recursive: true })
    await syncFolder(out)
    await removeShards(join(out, FOLDER), SHARDS, (found) => found >= shard)
    await removeShards(join(out, WORK), PENDING, (found) => found > shard || (found === shard && !begun))
    const pending = begun ? await AppendFile.open(pendingPath(out, shard), Number(mark?.bytes)) : undefined
    return new ParquetShardsWriter(out, dataSet, rows, pending)
  },

  async *read(out, dataSet, rows) {
    for (let first = 0, shard = 0; first < rows; first += dataSet.shardSize, shard++) {
      yield* readShard(out, shard, dataSet, first, Math.min(dataSet.shardSize, rows - first))
    }
  },
}

/** Where the row after `rows` rows goes. */
function place(rows: number, { shardSize }: DataSet): { shard: number; begun: boolean } {
  return { shard: Math.floor(rows / shardSize), begun: rows % shardSize > 0 }
}

const shardPath = (shard: number) => `${FOLDER}/${shardName(SHARDS, shard)}`
const pendingPath = (out: string, shard: number) => join(out, WORK, shardName(PENDING, shard))

class ParquetShardsWriter implements Writer {
  private readonly out: string
  private readonly dataSet: DataSet
  private rows: number
  /** The rows of the shard that is begun; undefined between two shards. */
  private pending: AppendFile | undefined
  /** The shard that the last mark lies in: the pending rows of those before it are no longer needed. */
  private markedShard = 0

  constructor(out: string, dataSet: DataSet, rows: number, pending: AppendFile | undefined) {
    this.out = out
    this.dataSet = dataSet
    this.rows = rows
    this.pending = pending
  }

  async write(rows: readonly Row[]): Promise<void> {
    for (let from = 0; from < rows.length; ) {
      const { shard } = place(this.rows, this.dataSet)
      this.pending ??= await AppendFile.open(pendingPath(this.out, shard), 0)
      const room = (shard + 1) * this.dataSet.shardSize - this.rows
      const part = rows.slice(from, from + room)
      await this.pending.append(Buffer.concat(part.map(pack)))
      this.rows += part.length
      from += part.length
      if (part.length === room) await this.writeShard(shard)
    }
  }

  async commit(): Promise<Mark> {
    await this.pending?.sync()
    // The mark before this one is on record by now.
    await removeShards(join(this.out, WORK), PENDING, (found) => found < this.markedShard)
    this.markedShard = place(this.rows, this.dataSet).shard
    return { rows: this.rows, bytes: this.pending?.length ?? 0 }
  }

  async finish() {
    const { shard, begun } = place(this.rows, this.dataSet)
    if (begun) await this.writeShard(shard)
    const files: OutputFile[] = []
    for (let first = 0; first < this.rows; first += this.dataSet.shardSize) {
      const path = shardPath(place(first, this.dataSet).shard)
      files.push({ ...(await describe(this.out, path)), rows: Math.min(this.dataSet.shardSize, this.rows - first) })
    }
    return files
  }

  async abort(): Promise<void> {
    await this.pending?.close()
    this.pending = undefined
  }

  /** Turns the pending rows, all of a shard, into its file. */
  private async writeShard(shard: number): Promise<void> {
    await this.abort()
    const unfinished = join(this.out, WORK, 'shard.parquet')
    await writeParquet(unfinished, this.dataSet, unpack(pendingPath(this.out, shard), this.dataSet))
    await rename(unfinished, join(this.out, shardPath(shard)))
    await syncFolder(join(this.out, FOLDER))
  }
}

/** A row among the pending ones: length of the key, label (-1 for none), key, tokens. */
function pack({ key, label, tokens }: Row): Buffer {
  const name = Buffer.from(key)
  const head = Buffer.alloc(8)
  head.writeUInt32LE(name.length, 0)
  head.writeInt32LE(label ?? -1, 4)
  return Buffer.concat([head, name, uint16Bytes(tokens)])
}

type PendingRow = Omit<Row, 'number'>

async function* unpack(path: string, { views, length }: DataSet): AsyncGenerator<PendingRow> {
  const tokenBytes = 2 * views * length
  let bytes = Buffer.alloc(0)
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    bytes = Buffer.concat([bytes, chunk])
    let at = 0
    while (bytes.length - at >= 8) {
      const keyEnd = at + 8 + bytes.readUInt32LE(at)
      if (bytes.length < keyEnd + tokenBytes) break
      const label = bytes.readInt32LE(at + 4)
      yield {
        key: bytes.toString('utf8', at + 8, keyEnd),
        label: label < 0 ? undefined : label,
        tokens: uint16Of(bytes.subarray(keyEnd, keyEnd + tokenBytes)),
      }
      at = keyEnd + tokenBytes
    }
    bytes = bytes.subarray(at)
  }
}

/** All nullable, though nothing is null: `datasets` overlooks its own note on the types of columns that are not. */
function schema({ labels }: DataSet): SchemaElement[] {
  return [
    { name: 'schema', num_children: labels ? 4 : 3 },
    { name: 'key', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
    ...(labels ? [{ name: 'label', type: 'INT64', repetition_type: 'OPTIONAL' } as const] : []),
    { name: 'view', type: 'INT32', converted_type: 'INT_16', repetition_type: 'OPTIONAL' },
    { name: 'tokens', converted_type: 'LIST', repetition_type: 'OPTIONAL', num_children: 1 },
    { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
    { name: 'element', type: 'INT32', converted_type: 'UINT_16', repetition_type: 'OPTIONAL' },
  ]
}

/** The types of the columns as `datasets` notes them. It reads "Sequence" in every version, "List" only from 4 on. */
function features({ labels, classes }: DataSet): string {
  const value = (dtype: string) => ({ dtype, _type: 'Value' })
  return JSON.stringify({
    info: {
      features: {
        key: value('string'),
        ...(labels && { label: classes ? { names: classes, _type: 'ClassLabel' } : value('int64') }),
        view: value('int16'),
        tokens: { feature: value('uint16'), _type: 'Sequence' },
      },
    },
  })
}

async function writeParquet(path: string, dataSet: DataSet, rows: AsyncIterable<PendingRow>): Promise<void> {
  const { views, length, labels } = dataSet
  const file = await AppendFile.open(path, 0)
  try {
    const writer = new ByteWriter()
    const parquetWriter = new ParquetWriter({
      writer,
      schema: schema(dataSet),
      kvMetadata: [{ key: 'huggingface', value: features(dataSet) }],
      createdBy: 'nativetok',
    })
    const flush = async () => {
      await file.append(writer.getBytes())
      writer.index = 0
    }
    const writeGroup = async (group: readonly PendingRow[]) => {
      const perView = <T>(value: (row: PendingRow, view: number) => T): T[] =>
        group.flatMap((row) => Array.from({ length: views }, (_, view) => value(row, view)))
      const tokens = perView((row, view) => Array.from(row.tokens.subarray(view * length, (view + 1) * length)))
      parquetWriter.write({
        columnData: [
          { name: 'key', data: perView(({ key }) => key) },
          ...(labels ? [{ name: 'label', data: perView(({ label }) => BigInt(label as number)) }] : []),
          { name: 'view', data: perView((_, view) => view) },
          // Ids in a dictionary take as many bits as the codebook needs. They do not compress any further.
          { name: 'tokens', data: tokens, encoding: 'RLE_DICTIONARY', codec: 'UNCOMPRESSED', statistics: false },
        ],
        rowGroupSize: tokens.length,
      })
      await flush()
    }
    const groupRows = Math.max(1, Math.floor(GROUP_IDS / (views * length)))
    let group: PendingRow[] = []
    for await (const row of rows) {
      group.push(row)
      if (group.length < groupRows) continue
      await writeGroup(group)
      group = []
    }
    if (group.length > 0) await writeGroup(group)
    parquetWriter.finish()
    await flush()
    await file.sync()
  } finally {
    await file.close()
  }
}

async function* readShard(
  out: string,
  shard: number,
  dataSet: DataSet,
  first: number,
  rows: number,
): AsyncGenerator<Row> {
  const { views } = dataSet
  const name = shardPath(shard)
  const broken = (what: string) => new FormatError(`${name} ${what}`)
  const file = await asyncBufferFromFile(join(out, name)).catch(missing(name))
  let metadata: FileMetaData
  try {
    metadata = await parquetMetadataAsync(file)
  } catch (error) {
    throw broken(`is not a whole Parquet file: ${(error as Error).message}`)
  }
  const found = metadata.key_value_metadata?.find(({ key }) => key === 'huggingface')?.value
  if (found !== features(dataSet)) throw broken('has other columns or class names in its metadata than it should have')
  if (Number(metadata.num_rows) !== rows * views) {
    throw broken(`has ${metadata.num_rows} rows instead of ${rows * views}`)
  }
  let rowStart = 0
  let number = first
  for (const group of metadata.row_groups) {
    const rowEnd = rowStart + Number(group.num_rows)
    const records = await parquetReadObjects({ file, metadata, rowStart, rowEnd }).catch((error: Error) => {
      throw broken(`cannot be read: ${error.message}`)
    })
    for (let at = 0; at < records.length; at += views) {
      yield {
        number,
        ...image(records.slice(at, at + views), dataSet, (what) => broken(`${what} at row ${rowStart + at}`)),
      }
      number += 1
    }
    rowStart = rowEnd
  }
}

/** The image of its views' records. */
function image(
  records: Record<string, unknown>[],
  { views, length, labels }: DataSet,
  broken: (what: string) => FormatError,
): PendingRow {
  const [{ key, label } = {}] = records
  if (typeof key !== 'string') throw broken('has no key')
  if (labels && !(typeof label === 'bigint' && label >= 0n && label <= BigInt(MOST_LABEL))) {
    throw broken(`has no label in 0..${MOST_LABEL}`)
  }
  const tokens = new Uint16Array(views * length)
  for (let view = 0; view < views; view++) {
    const record = records[view]
    if (record?.key !== key || record.view !== view || record.label !== label) {
      throw broken(`has no ${views} views of one image`)
    }
    const ids = record.tokens as number[]
    if (ids.length !== length || !ids.every((id) => id >= 0 && id <= MOST_ID)) throw broken(`has no ${length} ids`)
    tokens.set(ids, view * length)
  }
  return { key, label: labels ? Number(label) : undefined, tokens }
}
