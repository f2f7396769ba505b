import { mkdir, open, readdir, readFile, rm, rmdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import pLimit from 'p-limit'
import { npyHeader } from '../../formats/npy.ts'
import { syncFolder } from '../durable.ts'
import { AppendFile } from './append-file.ts'
import { FormatError, type Mark, missing, type OutputFile, type Row, type Writer } from './format.ts'
import { int64Bytes, int64Of } from './integers.ts'
import { KEYS_FILE, keyLines } from './keys-file.ts'
import { describe } from './output-files.ts'

// Enough to keep a disk busy, few enough for any limit on open files.
const FILES_AT_A_TIME = 16

/** What a format with files per image puts where. */
export interface Layout {
  /** Folders of the output that hold nothing else, each ending in `/`. */
  folders: readonly string[]
  /** The files of an image: path in the output and bytes. Their base names are the row's number. */
  files(row: Row): [path: string, bytes: Uint8Array][]
}

/** Writes a format with files per image, and keys.txt beside their folders. */
export class ImageFilesWriter implements Writer {
  readonly #out: string
  readonly #layout: Layout
  readonly #keys: AppendFile
  #rows: number
  readonly #limit = pLimit(FILES_AT_A_TIME)
  /** Folders, relative to the output, in which names are younger than the last commit. */
  readonly #changed = new Set<string>()
  /** Folders that are known to exist. */
  readonly #made = new Set<string>()

  private constructor(out: string, layout: Layout, keys: AppendFile, rows: number) {
    this.#out = out
    this.#layout = layout
    this.#keys = keys
    this.#rows = rows
  }

  static async open(out: string, layout: Layout, mark: Mark | undefined): Promise<ImageFilesWriter> {
    const rows = Number(mark?.rows ?? 0)
    for (const folder of layout.folders) await removeFrom(join(out, folder), rows)
    const keys = await AppendFile.open(join(out, KEYS_FILE), Number(mark?.keys ?? 0))
    return new ImageFilesWriter(out, layout, keys, rows)
  }

  async write(rows: readonly Row[]): Promise<void> {
    const files = rows.flatMap((row) => this.#layout.files(row))
    for (const [path] of files) await this.#makeFolder(dirname(path))
    await this.#limit.map(files, ([path, bytes]) => writeDurably(join(this.#out, path), bytes))
    await this.#keys.append(keyLines(rows))
    this.#rows += rows.length
  }

  async commit(): Promise<Mark> {
    await this.#limit.map(this.#changed, (folder) => syncFolder(join(this.#out, folder)))
    this.#changed.clear()
    await this.#keys.sync()
    return { rows: this.#rows, keys: this.#keys.length }
  }

  async finish(): Promise<OutputFile[]> {
    // An output without images has its folders nevertheless.
    for (const folder of this.#layout.folders) await this.#makeFolder(folder.slice(0, -1))
    await this.commit()
    await this.#keys.close()
    const files: OutputFile[] = []
    for (const path of [...this.#layout.folders, KEYS_FILE]) files.push(await describe(this.#out, path))
    return files
  }

  abort(): Promise<void> {
    return this.#keys.close()
  }

  async #makeFolder(folder: string): Promise<void> {
    this.#changed.add(folder)
    if (this.#made.has(folder)) return
    await mkdir(join(this.#out, folder), { recursive: true })
    this.#made.add(folder)
    // Its own name has to last too, also where a run that was killed has made it and no more.
    for (let parent = folder; parent !== '.'; ) {
      parent = dirname(parent)
      this.#changed.add(parent)
    }
  }
}

/** An array's file: int64, C order. */
export function int64File(shape: readonly number[], values: ArrayLike<number>): Buffer {
  return Buffer.concat([npyHeader('<i8', shape), int64Bytes(values)])
}

/**
 * Reads such a file.
 *
 * @throws FormatError unless it has this shape and numbers in 0..most
 */
export async function readInt64File(
  out: string,
  path: string,
  shape: readonly number[],
  most: number,
): Promise<number[]> {
  const found = await readFile(join(out, path)).catch(missing(path))
  const header = npyHeader('<i8', shape)
  const bytes = shape.reduce((product, n) => product * n, 8)
  if (!found.subarray(0, header.length).equals(header) || found.length !== header.length + bytes) {
    throw new FormatError(`${path} is not an array of int64 in the shape (${shape.join(', ')})`)
  }
  const values = int64Of(found.subarray(header.length))
  if (!values.every((value) => value <= most)) throw new FormatError(`${path} has numbers outside 0..${most}`)
  return values
}

async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'w')
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Removes what images from number `rows` on have left, and the folders that are empty then. */
async function removeFrom(folder: string, rows: number): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    return []
  })
  for (const entry of entries) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) {
      await removeFrom(path, rows)
      await rmdir(path).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOTEMPTY') throw error
      })
    } else if (Number(/^(\d+)\.npy$/.exec(entry.name)?.[1] ?? -1) >= rows) {
      await rm(path)
    }
  }
}
