import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { BundleError, messageOf } from '../errors.ts'

/** Fits the second-level cache of most processors. */
const PIECE_BYTES = 2 ** 18

/** A file with its verified content. */
export interface VerifiedFile {
  sha256: string
  bytes: number
  identity: string
}

/**
 * Hashes a bundle's files and compares them with the manifest's list.
 * @param files sha256 in hexadecimal, by file name.
 * @throws BundleError naming the first file that cannot be read, does not match, or changed meanwhile.
 */
export async function verifyFiles(folder: string, files: Record<string, string>): Promise<Map<string, VerifiedFile>> {
  const verified = await Promise.all(
    Object.entries(files).map(async ([name, sha256]) => {
      const file = await hashFile(join(folder, name), name)
      if (file.sha256 !== sha256) {
        throw new BundleError(`${name}: sha256 is ${file.sha256}, but the manifest says ${sha256}`)
      }
      return [name, file] as const
    }),
  )
  return new Map(verified)
}

/**
 * Changes when a file is replaced or written to: device, inode, size, and the times of the last change of content and of
 * metadata, in nanoseconds. If it is equal before and after a read, the content did not change meanwhile.
 */
export async function identityOf(path: string): Promise<string> {
  return identity(await stat(path, { bigint: true }))
}

/**
 * @param name of the file in errors.
 * @throws BundleError
 */
export async function hashFile(path: string, name: string): Promise<VerifiedFile> {
  let handle: FileHandle | undefined
  try {
    // Otherwise a named pipe in place of a file would block.
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const before = await handle.stat({ bigint: true })
    if (!before.isFile()) throw new Error('it is not a file')
    const hash = createHash('sha256')
    // A stream takes new memory for every piece, which costs more processor time than the hash.
    const piece = Buffer.allocUnsafe(PIECE_BYTES)
    for (let read = -1; read !== 0; ) {
      read = (await handle.read(piece)).bytesRead
      hash.update(piece.subarray(0, read))
    }
    if ((await identityOf(path)) !== identity(before)) throw new Error('it changed while it was being read')
    return { sha256: hash.digest('hex'), bytes: Number(before.size), identity: identity(before) }
  } catch (error) {
    throw new BundleError(`${name}: cannot be read (${messageOf(error)})`)
  } finally {
    await handle?.close()
  }
}

function identity(stats: { dev: bigint; ino: bigint; size: bigint; mtimeNs: bigint; ctimeNs: bigint }): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = stats
  return [dev, ino, size, mtimeNs, ctimeNs].join(':')
}
