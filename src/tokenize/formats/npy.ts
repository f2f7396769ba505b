import { join } from 'node:path'
import { npyHeader } from '../../formats/npy.ts'
import { AppendFile } from './append-file.ts'
import type { DataSet, Format, Mark, Row, Writer } from './format.ts'
import { int64Bytes, int64Of, uint16Bytes, uint16Of } from './integers.ts'
import { KEYS_FILE, keyLines, readKeys } from './keys-file.ts'
import { describe } from './output-files.ts'
import { RecordFile } from './record-file.ts'

const TOKENS = 'tokens.npy'
const LABELS = 'labels.npy'

/**
 * Flat arrays: tokens.npy uint16 [N, views, length], or [N, length] for one view; labels.npy int64 [N] where there are
 * labels; keys.txt with a key per line.
 */
export const npy: Format = {
  name: 'npy',
  version: 1,

  check() {},

  async open(out, dataSet, mark) {
    const files: AppendFile[] = []
    const array = async (name: string, header: Uint8Array, rowBytes: number) => {
      const length = mark === undefined ? 0 : header.length + Number(mark.rows) * rowBytes
      const file = await AppendFile.open(join(out, name), length)
      files.push(file)
      if (mark === undefined) await file.append(header)
      return file
    }
    try {
      const tokens = await array(TOKENS, tokensHeader(dataSet, 0), tokenBytes(dataSet))
      const labels = dataSet.labels ? await array(LABELS, labelsHeader(0), 8) : undefined
      const keys = await AppendFile.open(join(out, KEYS_FILE), Number(mark?.keys ?? 0))
      return new NpyWriter(out, dataSet, Number(mark?.rows ?? 0), { tokens, labels, keys })
    } catch (error) {
      for (const file of files) await file.close()
      throw error
    }
  },

  async *read(out, dataSet, rows) {
    const tokens = await RecordFile.open(out, TOKENS, tokensHeader(dataSet, rows), tokenBytes(dataSet), rows)
    let labels: RecordFile | undefined
    try {
      if (dataSet.labels) labels = await RecordFile.open(out, LABELS, labelsHeader(rows), 8, rows)
      let number = 0
      for await (const key of readKeys(out, rows)) {
        const label = labels && int64Of(await labels.record(number))[0]
        yield { number, key, label, tokens: uint16Of(await tokens.record(number)) }
        number += 1
      }
    } finally {
      await tokens.close()
      await labels?.close()
    }
  },
}

const tokenBytes = ({ views, length }: DataSet) => 2 * views * length

// N is known in the end only; headers of all N have the same size.
const tokensHeader = ({ views, length }: DataSet, rows: number) =>
  npyHeader('<u2', views === 1 ? [rows, length] : [rows, views, length])
const labelsHeader = (rows: number) => npyHeader('<i8', [rows])

class NpyWriter implements Writer {
  readonly #out: string
  readonly #dataSet: DataSet
  #rows: number
  readonly #tokens: AppendFile
  readonly #labels: AppendFile | undefined
  readonly #keys: AppendFile

  constructor(
    out: string,
    dataSet: DataSet,
    rows: number,
    files: { tokens: AppendFile; labels: AppendFile | undefined; keys: AppendFile },
  ) {
    this.#out = out
    this.#dataSet = dataSet
    this.#rows = rows
    this.#tokens = files.tokens
    this.#labels = files.labels
    this.#keys = files.keys
  }

  async write(rows: readonly Row[]): Promise<void> {
    await this.#tokens.append(Buffer.concat(rows.map(({ tokens }) => uint16Bytes(tokens))))
    await this.#labels?.append(int64Bytes(rows.map(({ label }) => label as number)))
    await this.#keys.append(keyLines(rows))
    this.#rows += rows.length
  }

  async commit(): Promise<Mark> {
    for (const file of this.#files()) await file.sync()
    return { rows: this.#rows, keys: this.#keys.length }
  }

  async finish() {
    await this.#tokens.overwrite(tokensHeader(this.#dataSet, this.#rows), 0)
    await this.#labels?.overwrite(labelsHeader(this.#rows), 0)
    await this.commit()
    await this.abort()
    const names = [TOKENS, ...(this.#labels ? [LABELS] : []), KEYS_FILE]
    return Promise.all(names.map((name) => describe(this.#out, name)))
  }

  async abort(): Promise<void> {
    for (const file of this.#files()) await file.close()
  }

  #files(): AppendFile[] {
    return [this.#tokens, ...(this.#labels ? [this.#labels] : []), this.#keys]
  }
}
