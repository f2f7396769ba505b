import { createReadStream } from 'node:fs'
import type { SchemaElement } from 'hyparquet'
import { ByteWriter, ParquetWriter } from 'hyparquet-writer'
import { AppendFile } from './append-file.ts'
import type { DataSet, Row } from './format.ts'
import { uint16Bytes, uint16Of } from './integers.ts'

// A row group is built in memory, at about 30 bytes an id. To write one takes some tenths of a second, in which nothing else
// is done: engines have that much work queued.
const GROUP_IDS = 2 ** 20

/** What a row says in a file; its number is its place. */
export type PlacedRow = Omit<Row, 'number'>

/** A row before it is in a Parquet file: length of the key, label (-1 for none), key, tokens. */
export function pack({ key, label, tokens }: Row): Buffer {
  const name = Buffer.from(key)
  const head = Buffer.alloc(8)
  head.writeUInt32LE(name.length, 0)
  head.writeInt32LE(label ?? -1, 4)
  return Buffer.concat([head, name, uint16Bytes(tokens)])
}

export async function* unpack(path: string, { views, length }: DataSet): AsyncGenerator<PlacedRow> {
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
export function features({ labels, classes }: DataSet): string {
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

/** A Parquet file that is being written, row group by row group. */
export class ShardFile {
  readonly #file: AppendFile
  readonly #dataSet: DataSet
  readonly #groupRows: number
  readonly #bytes = new ByteWriter()
  readonly #writer: ParquetWriter
  #group: PlacedRow[] = []

  private constructor(file: AppendFile, dataSet: DataSet) {
    this.#file = file
    this.#dataSet = dataSet
    this.#groupRows = Math.max(1, Math.floor(GROUP_IDS / (dataSet.views * dataSet.length)))
    this.#writer = new ParquetWriter({
      writer: this.#bytes,
      schema: schema(dataSet),
      kvMetadata: [{ key: 'huggingface', value: features(dataSet) }],
      createdBy: 'nativetok',
    })
  }

  /** Begins a file, or begins it anew. */
  static async open(path: string, dataSet: DataSet): Promise<ShardFile> {
    return new ShardFile(await AppendFile.open(path, 0), dataSet)
  }

  async add(row: PlacedRow): Promise<void> {
    this.#group.push(row)
    if (this.#group.length === this.#groupRows) await this.#writeGroup()
  }

  /** Completes the file, durably. */
  async finish(): Promise<void> {
    if (this.#group.length > 0) await this.#writeGroup()
    this.#writer.finish()
    await this.#flush()
    await this.#file.sync()
    await this.#file.close()
  }

  close(): Promise<void> {
    return this.#file.close()
  }

  async #writeGroup(): Promise<void> {
    const group = this.#group
    const { views, length, labels } = this.#dataSet
    this.#group = []
    const perView = <T>(value: (row: PlacedRow, view: number) => T): T[] =>
      group.flatMap((row) => Array.from({ length: views }, (_, view) => value(row, view)))
    const tokens = perView((row, view) => Array.from(row.tokens.subarray(view * length, (view + 1) * length)))
    this.#writer.write({
      columnData: [
        { name: 'key', data: perView(({ key }) => key) },
        ...(labels ? [{ name: 'label', data: perView(({ label }) => BigInt(label as number)) }] : []),
        { name: 'view', data: perView((_, view) => view) },
        // Ids in a dictionary take as many bits as the codebook needs. They do not compress any further.
        { name: 'tokens', data: tokens, encoding: 'RLE_DICTIONARY', codec: 'UNCOMPRESSED', statistics: false },
      ],
      rowGroupSize: tokens.length,
    })
    await this.#flush()
  }

  async #flush(): Promise<void> {
    await this.#file.append(this.#bytes.getBytes())
    this.#bytes.index = 0
  }
}
