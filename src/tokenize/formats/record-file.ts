import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { FormatError, missing } from './format.ts'

const BLOCK_BYTES = 2 ** 20

/** Reads a file of records of one size, after a header. */
export class RecordFile {
  readonly #handle: FileHandle
  readonly #start: number
  readonly #size: number
  #block = Buffer.alloc(0)
  /** Index of the block's first record. */
  #first = 0

  private constructor(handle: FileHandle, start: number, size: number) {
    this.#handle = handle
    this.#start = start
    this.#size = size
  }

  /**
   * @param size bytes per record
   * @throws FormatError unless the file begins with `header` and holds exactly `count` records after it
   */
  static async open(out: string, name: string, header: Uint8Array, size: number, count: number): Promise<RecordFile> {
    const handle = await open(join(out, name)).catch(missing(name))
    try {
      const found = (await handle.stat()).size
      const expected = header.length + size * count
      if (found !== expected) throw new FormatError(`${name} has ${found} bytes instead of ${expected}`)
      const head = Buffer.alloc(header.length)
      await handle.read(head, 0, head.length, 0)
      if (!head.equals(header)) throw new FormatError(`${name} does not begin with the header of ${count} rows`)
      return new RecordFile(handle, header.length, size)
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  /** Record `index`: a view that stays as it is. Fast in order. */
  async record(index: number): Promise<Buffer> {
    const at = (index - this.#first) * this.#size
    if (at < 0 || at + this.#size > this.#block.length) {
      const block = Buffer.alloc(Math.max(1, Math.floor(BLOCK_BYTES / this.#size)) * this.#size)
      const { bytesRead } = await this.#handle.read(block, 0, block.length, this.#start + index * this.#size)
      this.#block = block.subarray(0, bytesRead)
      this.#first = index
      return this.#block.subarray(0, this.#size)
    }
    return this.#block.subarray(at, at + this.#size)
  }

  close(): Promise<void> {
    return this.#handle.close()
  }
}
