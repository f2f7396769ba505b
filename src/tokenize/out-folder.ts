import { mkdir, readdir, realpath, rmdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve, sep } from 'node:path'
import { messageOf, OptionsError } from './errors.ts'
import { WORK } from './formats/format.ts'

/**
 * Checks that an output can lie where it is to lie. Paths are compared without links.
 * @throws OptionsError if that is no folder, or input and output lie in one another
 */
export async function checkPlace(out: string, input: string): Promise<void> {
  const place = await placeOf(out)
  const from = await realpath(input).catch(() => undefined)
  // A pattern, or what is not there: opening it tells.
  if (from === undefined) return
  if (isWithin(place, from)) throw new OptionsError(`${out} lies inside ${input}: choose a folder outside it`)
  if (isWithin(from, place)) throw new OptionsError(`${input} lies inside ${out}: choose another folder to write`)
}

/** @throws OptionsError if a folder holds what no run of this command has left there */
export async function checkEmpty(out: string): Promise<void> {
  const names = await readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const stranger = names.find((name) => name !== WORK)
  if (stranger !== undefined) throw new OptionsError(`${out} is not empty: it holds ${stranger}`)
}

/**
 * Makes a folder, with those above it.
 * @returns the folders that were not there, the deepest first
 * @throws OptionsError if it may not be made
 */
export async function makeFolders(path: string): Promise<string[]> {
  try {
    return await make(resolve(path))
  } catch (error) {
    if (!['ENOENT', 'EACCES', 'EPERM', 'EROFS'].includes(String((error as NodeJS.ErrnoException).code))) throw error
    throw new OptionsError(`${path} cannot be made (${messageOf(error)})`)
  }
}

/** Removes those of the folders that are empty. */
export async function removeEmpty(folders: readonly string[]): Promise<void> {
  for (const folder of folders) await rmdir(folder).catch(() => {})
}

// Node's own recursion never ends below /proc, where what is not there cannot be made.
async function make(path: string): Promise<string[]> {
  const code = await codeOf(mkdir(path), ['EEXIST', 'ENOENT'])
  if (code === undefined) return [path]
  if (code === 'EEXIST') return []
  const above = await make(dirname(path))
  return (await codeOf(mkdir(path), ['EEXIST'])) === undefined ? [path, ...above] : above
}

/** Which of some errors work ended with; undefined if it was done. */
function codeOf(work: Promise<void>, expected: readonly string[]): Promise<string | undefined> {
  return work.then(
    () => undefined,
    (error: NodeJS.ErrnoException) => {
      if (error.code !== undefined && expected.includes(error.code)) return error.code
      throw error
    },
  )
}

/** A path without links, as far as it is there. */
async function placeOf(path: string): Promise<string> {
  const names: string[] = []
  for (let above = resolve(path); ; above = dirname(above)) {
    try {
      const real = await realpath(above)
      if (!(await stat(real)).isDirectory()) throw new OptionsError(`${above} is not a folder`)
      return join(real, ...names)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error
      names.unshift(basename(above))
    }
  }
}

function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`)
}
