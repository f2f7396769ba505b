import { createHash } from 'node:crypto'
import { type FileHandle, open, readFile, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { syncFolder } from './durable.ts'
import type { OutputFile } from './formats/format.ts'

/** An image that failed. */
export interface Failure {
  /** Its position among the images of the source. */
  index: number
  key: string
  reason: string
}

const NAME = 'errors.jsonl'

/** `errors.jsonl`: a line per image that failed, in the order of the source. There is no file without failures. */
export class ErrorsLog {
  readonly #out: string
  #file: FileHandle | undefined
  #count: number
  #bytes: number

  /** Goes on after `bytes` bytes with `count` lines; what follows them is removed. */
  static async open(out: string, { count, bytes }: { count: number; bytes: number }): Promise<ErrorsLog> {
    const path = join(out, NAME)
    if (bytes === 0) await rm(path, { force: true })
    else await truncate(path, bytes)
    return new ErrorsLog(out, count, bytes)
  }

  private constructor(out: string, count: number, bytes: number) {
    this.#out = out
    this.#count = count
    this.#bytes = bytes
  }

  get state(): { count: number; bytes: number } {
    return { count: this.#count, bytes: this.#bytes }
  }

  async add(failure: Failure): Promise<void> {
    this.#file ??= await open(join(this.#out, NAME), 'a')
    const line = Buffer.from(`${JSON.stringify(failure)}\n`)
    await this.#file.appendFile(line)
    this.#count++
    this.#bytes += line.length
  }

  /** Makes all lines survive a loss of power. */
  async sync(): Promise<void> {
    if (this.#file === undefined) return
    await this.#file.sync()
    await syncFolder(this.#out)
  }

  async close(): Promise<void> {
    await this.#file?.close()
    this.#file = undefined
  }

  /** The file for the manifest, if there is one. */
  async files(): Promise<OutputFile[]> {
    if (this.#bytes === 0) return []
    const content = await readFile(join(this.#out, NAME))
    return [{ path: NAME, bytes: content.length, sha256: createHash('sha256').update(content).digest('hex') }]
  }
}
