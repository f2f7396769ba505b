import { createHash } from 'node:crypto'
import { type Dirent, readFile, stat as statOf } from 'node:fs'
import { readdir, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ItemError, OptionsError, unreadable } from '../errors.ts'
import {
  byCodePoint,
  type Item,
  isImageName,
  keysOf,
  type Part,
  type Position,
  type Source,
  sliceOf,
} from './source.ts'

/** A folder at the top, or the files beside them: what is listed at a time. */
interface Group {
  /** Relative to the input; '' for the files at the top. */
  folder: string
  label: number | undefined
  /** Images in it, and in the groups before it. */
  count: number
  before: number
}

/**
 * Images in a folder, in the order of torchvision's ImageFolder: folders at the top in string order, then in each of them
 * its own files and those of its sub-folders. The folders at the top are the classes. Links are followed. Hidden files and
 * files without an image's suffix are left out.
 *
 * Only one folder's names are in memory at a time.
 *
 * @param labels whether the folders at the top are classes
 * @throws OptionsError if there is no image, some have no class, or a link leads back to a folder that it is in
 */
export async function openFolder(input: string, { labels, part }: { labels: boolean; part: Part }): Promise<Source> {
  const top = await entriesOf(input)
  const beside = top.files.filter(isImageName).length
  if (labels && top.folders.length > 0 && beside > 0) {
    throw new OptionsError(
      `${input} has ${beside} images beside its class folders, which have no class: move them, or use --labels none`,
    )
  }
  const classes = labels && top.folders.length > 0 ? top.folders.toSorted(byCodePoint) : undefined
  const folders = beside > 0 ? [''] : []
  folders.push(...top.folders.toSorted(byCodePoint))
  const digest = createHash('sha256')
  const groups: Group[] = []
  let total = 0
  for (const folder of folders) {
    const paths = await imagesIn(input, folder)
    for (const path of paths) digest.update(`${path}\0`)
    const label = classes === undefined ? undefined : classes.indexOf(folder)
    groups.push({ folder, label, count: paths.length, before: total })
    total += paths.length
  }
  if (total === 0) throw new OptionsError(`${input} holds no image files`)
  const [start, end] = sliceOf(total, part)

  async function* items({ image }: Position): AsyncGenerator<Item> {
    for (const { folder, label, count, before } of groups) {
      if (before + count <= start + image || before >= end) continue
      const paths = await imagesIn(input, folder)
      if (paths.length !== count) throw new Error(`${join(input, folder)} has changed since this run began`)
      const keys = keysOf(paths)
      for (let i = Math.max(0, start + image - before); i < Math.min(count, end - before); i++) {
        const index = before + i - start
        const path = paths[i] as string
        yield {
          ...{ index, key: keys[i] as string, label, next: { image: index + 1 }, done: index + 1 },
          read: () => readImage(join(input, path)),
        }
      }
    }
  }
  return {
    kind: 'folder',
    size: { unit: 'images', count: end - start },
    digest: digest.digest('hex'),
    labels: classes !== undefined,
    classes,
    items,
  }
}

// Those in node:fs/promises take twice the time of the main thread.
const readWhole = promisify(readFile)
const look = promisify(statOf)

/** Reads an image's file. @throws ItemError */
export async function readImage(path: string): Promise<Buffer> {
  try {
    // Reading a FIFO would wait for somebody who writes to it.
    if (!(await look(path)).isFile()) throw new ItemError('is not a file')
    return await readWhole(path)
  } catch (error) {
    if (error instanceof ItemError) throw error
    if (isMisread(path)) throw new ItemError('has a name that is not UTF-8')
    const { code, message } = error as NodeJS.ErrnoException
    throw new ItemError(`cannot be read (${code ?? message})`)
  }
}

/** Whether a path has the sign that Node puts in place of bytes that are not UTF-8. */
function isMisread(path: string): boolean {
  return path.includes('\ufffd')
}

/** The image files of a folder at the top, with those below it, or of the top itself: paths relative to the input. */
async function imagesIn(input: string, folder: string): Promise<string[]> {
  if (folder === '') return (await entriesOf(input)).files.filter(isImageName).toSorted(byCodePoint)
  const found: { folder: string; names: string[] }[] = []
  const visit = async (path: string, above: readonly string[]): Promise<void> => {
    const at = join(input, path)
    const { folders, files } = await entriesOf(at)
    const real = await realpath(at)
    if (above.includes(real)) throw new OptionsError(`${at} is a link to a folder that it is in`)
    found.push({ folder: path, names: files.filter(isImageName).toSorted(byCodePoint) })
    for (const name of folders) await visit(`${path}/${name}`, [...above, real])
  }
  await visit(folder, [await realpath(input)])
  return found
    .sort((a, b) => byCodePoint(a.folder, b.folder))
    .flatMap(({ folder, names }) => names.map((name) => `${folder}/${name}`))
}

/** Names in a folder, without hidden ones. A broken link counts as a file: it fails by name when it is read. */
async function entriesOf(path: string): Promise<{ folders: string[]; files: string[] }> {
  const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
    throw isMisread(path) ? new OptionsError(`${path} has a name that is not UTF-8`) : unreadable(path, error)
  })
  const folders: string[] = []
  const files: string[] = []
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue
    if (await isFolder(path, entry)) folders.push(entry.name)
    else files.push(entry.name)
  }
  return { folders, files }
}

async function isFolder(path: string, entry: Dirent): Promise<boolean> {
  if (!entry.isSymbolicLink()) return entry.isDirectory()
  return stat(join(path, entry.name)).then(
    (target) => target.isDirectory(),
    () => false,
  )
}
