import { mkdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { asyncBufferFromFile, type FileMetaData, parquetMetadataAsync, parquetReadObjects } from 'hyparquet'
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
import { describe } from './output-files.ts'
import { features, type PlacedRow, pack, ShardFile, unpack } from './parquet-shard.ts'
import { place, removeShards, shardName } from './shards.ts'

const FOLDER = 'data'
const SHARDS = { before: 'train-', digits: 5, after: '.parquet' }
/** The rows of a shard until it is written: Parquet cannot be appended to, these files can. */
const PACKED = { before: 'shard-', digits: 5, after: '.rows' }

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
    const open = begun ? await OpenShard.open(out, shard, dataSet, Number(mark?.bytes)) : undefined
    return new ParquetWriter(out, dataSet, rows, open)
  },

  async *read(out, dataSet, rows) {
    for (let first = 0, shard = 0; first < rows; first += dataSet.shardSize, shard++) {
      yield* readShard(out, shard, dataSet, first, Math.min(dataSet.shardSize, rows - first))
    }
  },
}

const shardPath = (shard: number) => `${FOLDER}/${shardName(SHARDS, shard)}`

/** A shard that is being filled. Its packed rows are what lasts; the Parquet file is made anew from them after a kill. */
class OpenShard {
  readonly #out: string
  readonly #shard: number
  readonly #packed: AppendFile
  readonly #file: ShardFile

  private constructor(out: string, shard: number, packed: AppendFile, file: ShardFile) {
    this.#out = out
    this.#shard = shard
    this.#packed = packed
    this.#file = file
  }

  /** @param length bytes of packed rows that are there */
  static async open(out: string, shard: number, dataSet: DataSet, length: number): Promise<OpenShard> {
    const path = join(out, WORK, shardName(PACKED, shard))
    const packed = await AppendFile.open(path, length)
    try {
      const file = await ShardFile.open(unfinished(out), dataSet)
      const open = new OpenShard(out, shard, packed, file)
      for await (const row of unpack(path, dataSet)) await file.add(row)
      return open
    } catch (error) {
      await packed.close()
      throw error
    }
  }

  /** Bytes of packed rows. */
  get length(): number {
    return this.#packed.length
  }

  async write(rows: readonly Row[]): Promise<void> {
    await this.#packed.append(Buffer.concat(rows.map(pack)))
    for (const row of rows) await this.#file.add(row)
  }

  sync(): Promise<void> {
    return this.#packed.sync()
  }

  async finish(): Promise<void> {
    await this.#file.finish()
    await this.#packed.close()
    await rename(unfinished(this.#out), join(this.#out, shardPath(this.#shard)))
    await syncFolder(join(this.#out, FOLDER))
  }

  async close(): Promise<void> {
    await this.#packed.close()
    await this.#file.close()
  }
}

const unfinished = (out: string) => join(out, WORK, 'shard.parquet')

class ParquetWriter implements Writer {
  readonly #out: string
  readonly #dataSet: DataSet
  #rows: number
  /** Undefined between two shards. */
  #open: OpenShard | undefined
  /** The shard that the last mark lies in: the packed rows of those before it are no longer needed. */
  #markedShard = 0

  constructor(out: string, dataSet: DataSet, rows: number, open: OpenShard | undefined) {
    this.#out = out
    this.#dataSet = dataSet
    this.#rows = rows
    this.#open = open
  }

  async write(rows: readonly Row[]): Promise<void> {
    for (let from = 0; from < rows.length; ) {
      const { shard } = place(this.#rows, this.#dataSet)
      this.#open ??= await OpenShard.open(this.#out, shard, this.#dataSet, 0)
      const room = (shard + 1) * this.#dataSet.shardSize - this.#rows
      const part = rows.slice(from, from + room)
      await this.#open.write(part)
      this.#rows += part.length
      from += part.length
      if (part.length === room) await this.#endShard()
    }
  }

  async commit(): Promise<Mark> {
    await this.#open?.sync()
    // The mark before this one is on record by now.
    await removeShards(join(this.#out, WORK), PACKED, (found) => found < this.#markedShard)
    this.#markedShard = place(this.#rows, this.#dataSet).shard
    return { rows: this.#rows, bytes: this.#open?.length ?? 0 }
  }

  async finish() {
    await this.#endShard()
    const files: OutputFile[] = []
    for (let first = 0; first < this.#rows; first += this.#dataSet.shardSize) {
      const path = shardPath(place(first, this.#dataSet).shard)
      files.push({ ...(await describe(this.#out, path)), rows: Math.min(this.#dataSet.shardSize, this.#rows - first) })
    }
    return files
  }

  async abort(): Promise<void> {
    await this.#open?.close()
    this.#open = undefined
  }

  async #endShard(): Promise<void> {
    await this.#open?.finish()
    this.#open = undefined
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
): PlacedRow {
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
