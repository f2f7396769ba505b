import { open, readFile, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { OptionsError } from './errors.ts'

/** Makes what was created, renamed or removed in a folder survive a loss of power. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Writes a file whole: whenever the machine stops, it has its old or its new content. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`
  const file = await open(temporary, 'w')
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(temporary, path)
  await syncFolder(dirname(path))
}

/**
 * Reads a JSON object that was written whole; undefined where there is none.
 * @throws OptionsError naming a file that is none or lacks one of the keys
 */
export async function readObject(path: string, keys: readonly string[]): Promise<object | undefined> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
    throw error
  })
  if (text === undefined) return undefined
  const value = parsed(text)
  if (typeof value === 'object' && value !== null && keys.every((key) => key in value)) return value
  throw new OptionsError(`${path} is ${text === '' ? 'empty' : 'damaged'}: use another folder, or remove this one`)
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
