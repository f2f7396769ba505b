import { join } from 'node:path'
import { AppendFile } from './append-file.ts'
import { type DataSet, type Format, FormatError, needLabels, type Row, type Writer } from './format.ts'
import { readLines } from './lines.ts'
import { describe } from './output-files.ts'

const FILE = 'tokens.jsonl'

/** A line of tokens.jsonl: one view. 1d-tokenizer reads the first two fields. */
interface Line {
  class_id: number
  tokens: number[]
  key: string
  view: number
}

/** 1d-tokenizer's JSONL: a line per view, the views of an image one after the other. */
export const jsonl: Format = {
  name: 'jsonl',
  version: 1,

  check(dataSet) {
    needLabels(dataSet, 'jsonl')
  },

  async open(out, { length }, mark) {
    return new JsonlWriter(out, length, await AppendFile.open(join(out, FILE), Number(mark?.bytes ?? 0)))
  },

  async *read(out, dataSet, rows) {
    let number = 0
    let views: Line[] = []
    let line = 0
    for await (const text of readLines(out, FILE)) {
      line += 1
      const parsed = parse(text, line, dataSet, views)
      views.push(parsed)
      if (views.length < dataSet.views) continue
      const { key, class_id: label } = parsed
      yield { number, key, label, tokens: Uint16Array.from(views.flatMap(({ tokens }) => tokens)) }
      number += 1
      views = []
    }
    if (number !== rows || views.length > 0) {
      const found = number * dataSet.views + views.length
      throw new FormatError(`${FILE} has ${found} lines instead of ${rows * dataSet.views}`)
    }
  },
}

/** @throws FormatError unless the line is the view that follows `before`, the image's views so far */
function parse(text: string, line: number, { length }: DataSet, before: readonly Line[]): Line {
  const broken = (what: string) => new FormatError(`line ${line} of ${FILE} ${what}`)
  let parsed: Line
  try {
    parsed = JSON.parse(text)
  } catch {
    throw broken('is not JSON')
  }
  const { class_id, tokens, key, view } = parsed ?? {}
  if (!Array.isArray(tokens) || !tokens.every((id) => Number.isInteger(id) && id >= 0 && id <= 0xffff)) {
    throw broken('has no list of ids as its tokens')
  }
  if (tokens.length !== length) throw broken(`has ${tokens.length} tokens instead of ${length}`)
  if (!Number.isInteger(class_id)) throw broken('has no integer as its class_id')
  if (typeof key !== 'string') throw broken('has no key')
  const first = before[0]
  if (view !== before.length || (first && (key !== first.key || class_id !== first.class_id))) {
    throw broken(`is not view ${before.length} of ${first ? first.key : 'a new image'}`)
  }
  return parsed
}

class JsonlWriter implements Writer {
  readonly #out: string
  readonly #length: number
  readonly #file: AppendFile

  constructor(out: string, length: number, file: AppendFile) {
    this.#out = out
    this.#length = length
    this.#file = file
  }

  async write(rows: readonly Row[]): Promise<void> {
    let text = ''
    for (const { key, label, tokens } of rows) {
      for (let view = 0; view * this.#length < tokens.length; view++) {
        const ids = Array.from(tokens.subarray(view * this.#length, (view + 1) * this.#length))
        const line: Line = { class_id: label as number, tokens: ids, key, view }
        text += `${JSON.stringify(line)}\n`
      }
    }
    await this.#file.append(Buffer.from(text))
  }

  async commit() {
    await this.#file.sync()
    return { bytes: this.#file.length }
  }

  async finish() {
    await this.#file.sync()
    await this.#file.close()
    return [await describe(this.#out, FILE)]
  }

  abort(): Promise<void> {
    return this.#file.close()
  }
}
