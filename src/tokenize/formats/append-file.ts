import { constants } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { syncFolder } from '../durable.ts'
import { FormatError } from './format.ts'

/** A file that grows at its end, and can be taken back to any length that it had. */
export class AppendFile {
  /** Bytes so far. */
  length: number
  readonly #handle: FileHandle

  private constructor(handle: FileHandle, length: number) {
    this.#handle = handle
    this.length = length
  }

  /**
   * Opens or makes a file, durably, and cuts off what lies beyond `length` bytes.
   *
   * @throws FormatError if the file is shorter than that
   */
  static async open(path: string, length: number): Promise<AppendFile> {
    const found = await stat(path).then(
      ({ size }) => size,
      (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
        return undefined
      },
    )
    if ((found ?? 0) < length) {
      throw new FormatError(`${path} has ${found ?? 0} bytes, fewer than the ${length} that were written`)
    }
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT)
    try {
      if ((found ?? 0) > length) await handle.truncate(length)
      // Also where it exists: a run that was killed may have made it and no more.
      await syncFolder(dirname(path))
    } catch (error) {
      await handle.close()
      throw error
    }
    return new AppendFile(handle, length)
  }

  async append(bytes: Uint8Array): Promise<void> {
    await this.#put(bytes, this.length)
    this.length += bytes.length
  }

  /** Writes over bytes that are there. */
  async overwrite(bytes: Uint8Array, offset: number): Promise<void> {
    await this.#put(bytes, offset)
  }

  sync(): Promise<void> {
    return this.#handle.sync()
  }

  close(): Promise<void> {
    return this.#handle.close()
  }

  async #put(bytes: Uint8Array, offset: number): Promise<void> {
    // A disk that fills up takes a part first and says so only at the next write.
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, offset + done)
      done += bytesWritten
    }
  }
}
