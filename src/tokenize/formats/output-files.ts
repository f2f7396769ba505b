import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join, relative, sep } from 'node:path'
import pLimit from 'p-limit'
import type { OutputFile } from './format.ts'

// Enough to keep a disk busy, few enough for any limit on open files.
const FILES_AT_A_TIME = 16

/**
 * Sizes and hashes a file of an output, or a folder (`path` ends in `/`). A folder's digest is that of the lines that
 * `sha256sum` prints for its files, named relative to it and sorted by name, sub-folders included:
 *
 *     cd FOLDER && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum
 */
export async function describe(out: string, path: string): Promise<OutputFile> {
  if (!path.endsWith('/')) {
    const file = join(out, path)
    return { path, bytes: (await stat(file)).size, sha256: await fileDigest(file) }
  }
  const names = await filesUnder(join(out, path))
  const limit = pLimit(FILES_AT_A_TIME)
  const found = await limit.map(names, (name) => describe(join(out, path), name))
  const listing = createHash('sha256')
  for (const { path: name, sha256 } of found) listing.update(`${sha256}  ${name}\n`)
  const bytes = found.reduce((sum, file) => sum + file.bytes, 0)
  return { path, bytes, sha256: listing.digest('hex'), files: found.length }
}

/** The files below a folder, relative to it with `/` between parts, sorted. */
export async function filesUnder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll(sep, '/'))
    .sort()
}

async function fileDigest(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk)
  return hash.digest('hex')
}
