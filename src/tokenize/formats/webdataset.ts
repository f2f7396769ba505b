import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import tar from 'tar-stream'
import { npyHeader } from '../../formats/npy.ts'
import { AppendFile } from './append-file.ts'
import {
  type DataSet,
  type Format,
  FormatError,
  type Mark,
  MOST_LABEL,
  missing,
  type OutputFile,
  type Row,
  type Writer,
} from './format.ts'
import { uint16Bytes, uint16Of } from './integers.ts'
import { describe } from './output-files.ts'
import { place, removeShards, shardName } from './shards.ts'

const SHARDS = { before: 'tokens-', digits: 6, after: '.tar' }
const END = Buffer.alloc(1024)

/**
 * WebDataset tars: tokens-000000.tar and so on, with KEY.npy uint16 [views, length] (or [length] for one view), KEY.cls
 * where there are labels, and KEY.json, which holds the key as the source has it.
 */
export const webdataset: Format = {
  name: 'webdataset',
  version: 1,

  check() {},

  async open(out, dataSet, mark) {
    const rows = Number(mark?.rows ?? 0)
    const { shard, begun } = place(rows, dataSet)
    await removeShards(out, SHARDS, (found) => found > shard || (found === shard && !begun))
    const file = begun ? await AppendFile.open(join(out, shardName(SHARDS, shard)), Number(mark?.bytes)) : undefined
    return new WebdatasetWriter(out, dataSet, rows, file, String(mark?.last ?? ''))
  },

  async *read(out, dataSet, rows) {
    let number = 0
    for (let shard = 0; number < rows; shard++) {
      const name = shardName(SHARDS, shard)
      const expected = Math.min(dataSet.shardSize, rows - number)
      await checkEnd(out, name)
      let found = 0
      for await (const sample of samples(out, name)) {
        found += 1
        if (found > expected) break
        yield { number, ...parse(name, sample, dataSet) }
        number += 1
      }
      if (found !== expected) {
        throw new FormatError(
          `${name} has ${found > expected ? 'more images than' : `${found} images instead of`} ${expected}`,
        )
      }
    }
  },
}

/**
 * A key as the base of member names. Readers cut names at the first dot after the last slash, skip hidden files and top
 * folders such as `__x__`, and unpackers refuse paths that leave the folder. So `%`, control characters, dots in the last
 * part, parts of dots alone and the first underscore of `__x__` are percent-encoded, and an empty part becomes `%`.
 */
export function memberKey(key: string): string {
  const parts = key.split('/')
  return parts
    .map((part, i) => {
      const dots = i === parts.length - 1 || /^\.+$/.test(part)
      const encoded = part.replaceAll(dots ? /[%.\p{Cc}]/gu : /[%\p{Cc}]/gu, percent)
      return encoded === '' ? '%' : i === 0 ? encoded.replace(/^_(?=_.*__$)/, percent) : encoded
    })
    .join('/')
}

/** Marks a sample whose key is that of the sample before: readers would take both for one. No encoded key ends so. */
const AGAIN = '%_'

function percent(character: string): string {
  return `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`
}

interface Sample {
  base: string
  fields: Map<string, Buffer>
}

/** The samples of a shard: members that follow each other and have the same name up to the first dot of its last part. */
async function* samples(out: string, name: string): AsyncGenerator<Sample> {
  const extract = tar.extract()
  // A broken shard makes the loop throw.
  pipeline(createReadStream(join(out, name)), extract, () => {})
  let sample: Sample | undefined
  try {
    for await (const entry of extract) {
      const [, base = '', field = ''] = /^((?:.*\/)?[^./]*)\.([^/]*)$/s.exec(entry.header.name) ?? []
      if (sample?.base !== base) {
        if (sample) yield sample
        sample = { base, fields: new Map() }
      }
      if (sample.fields.has(field)) throw new FormatError(`${name} has ${entry.header.name} twice`)
      sample.fields.set(field, await buffer(entry))
    }
  } catch (error) {
    if (error instanceof FormatError) throw error
    throw new FormatError(`${name} is not a whole tar: ${(error as Error).message}`)
  }
  if (sample) yield sample
}

/** @throws FormatError unless the shard ends as tars do: one that is cut off between two members reads like a shorter one */
async function checkEnd(out: string, name: string): Promise<void> {
  const file = await open(join(out, name)).catch(missing(name))
  try {
    const { size } = await file.stat()
    const end = Buffer.alloc(END.length, 1)
    await file.read(end, 0, end.length, Math.max(0, size - end.length))
    if (size % 512 !== 0 || !end.equals(END)) {
      throw new FormatError(`${name} is cut off: it does not end in two blocks of zeros`)
    }
  } finally {
    await file.close()
  }
}

/** @throws FormatError unless the sample is what the writer makes of a row */
function parse(name: string, { base, fields }: Sample, dataSet: DataSet): Omit<Row, 'number'> {
  const broken = (what: string) => new FormatError(`${base} in ${name} ${what}`)
  const wanted = dataSet.labels ? ['npy', 'cls', 'json'] : ['npy', 'json']
  if ([...fields.keys()].join() !== wanted.join()) {
    throw broken(`has the fields ${[...fields.keys()].join(', ')} instead of ${wanted.join(', ')}`)
  }
  const npy = fields.get('npy') as Buffer
  const header = tokensHeader(dataSet)
  const tokens = uint16Of(npy.subarray(header.length))
  if (!npy.subarray(0, header.length).equals(header) || tokens.length !== dataSet.views * dataSet.length) {
    throw broken('has an array of another shape or type than it should have')
  }
  const label = dataSet.labels ? Number(`${fields.get('cls')}`) : undefined
  if (label !== undefined && !(Number.isInteger(label) && label >= 0 && label <= MOST_LABEL)) {
    throw broken(`has no label in 0..${MOST_LABEL}`)
  }
  let key: unknown
  try {
    key = JSON.parse(`${fields.get('json')}`).key
  } catch {}
  if (typeof key !== 'string' || memberKey(key) !== base.replace(AGAIN, ''))
    throw broken('has another key in its .json')
  return { key, label, tokens }
}

const tokensHeader = ({ views, length }: DataSet) => npyHeader('<u2', views === 1 ? [length] : [views, length])

class WebdatasetWriter implements Writer {
  readonly #out: string
  readonly #dataSet: DataSet
  readonly #header: Buffer
  #rows: number
  /** The shard that is begun; undefined between two shards. */
  #file: AppendFile | undefined
  /** The name of the sample before. */
  #last: string

  constructor(out: string, dataSet: DataSet, rows: number, file: AppendFile | undefined, last: string) {
    this.#out = out
    this.#dataSet = dataSet
    this.#header = tokensHeader(dataSet)
    this.#rows = rows
    this.#file = file
    this.#last = last
  }

  async write(rows: readonly Row[]): Promise<void> {
    for (let from = 0; from < rows.length; ) {
      const { shard } = place(this.#rows, this.#dataSet)
      this.#file ??= await AppendFile.open(join(this.#out, shardName(SHARDS, shard)), 0)
      const room = (shard + 1) * this.#dataSet.shardSize - this.#rows
      const part = rows.slice(from, from + room)
      await this.#file.append(await this.#members(part))
      this.#rows += part.length
      from += part.length
      if (part.length === room) await this.#endShard()
    }
  }

  async commit(): Promise<Mark> {
    await this.#file?.sync()
    return { rows: this.#rows, bytes: this.#file?.length ?? 0, last: this.#last }
  }

  async finish() {
    await this.#endShard()
    const files: OutputFile[] = []
    for (let first = 0; first < this.#rows; first += this.#dataSet.shardSize) {
      const name = shardName(SHARDS, place(first, this.#dataSet).shard)
      files.push({ ...(await describe(this.#out, name)), rows: Math.min(this.#dataSet.shardSize, this.#rows - first) })
    }
    return files
  }

  async abort(): Promise<void> {
    await this.#file?.close()
    this.#file = undefined
  }

  async #endShard(): Promise<void> {
    await this.#file?.append(END)
    await this.#file?.sync()
    await this.abort()
  }

  /** The rows' members, as a tar without its end. */
  async #members(rows: readonly Row[]): Promise<Buffer> {
    const pack = tar.pack()
    const add = (name: string, bytes: Buffer) => pack.entry({ name, mtime: new Date(0) }, bytes)
    for (const { key, label, tokens } of rows) {
      const encoded = memberKey(key)
      const base = encoded === this.#last ? `${encoded}${AGAIN}` : encoded
      this.#last = base
      add(`${base}.npy`, Buffer.concat([this.#header, uint16Bytes(tokens)]))
      if (this.#dataSet.labels) add(`${base}.cls`, Buffer.from(`${label}`))
      add(`${base}.json`, Buffer.from(JSON.stringify({ key })))
    }
    pack.finalize()
    return (await buffer(pack)).subarray(0, -END.length)
  }
}
