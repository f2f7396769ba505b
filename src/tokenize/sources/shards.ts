import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { OptionsError, unreadable } from '../errors.ts'
import { byCodePoint } from './source.ts'

/** A file of a data set that is cut into several. */
export interface Shard {
  path: string
  /** Its name, without the folder that it lies in. */
  name: string
  bytes: number
}

/** The most files that one pattern may name. */
const MOST_NAMES = 1_000_000

/**
 * The files that an input names, in order: a file itself, a pattern with numbers in braces (`train-{0000..0099}.tar`), or
 * a folder's files with a suffix in string order.
 *
 * @throws OptionsError naming what is missing
 */
export async function shardsOf(input: string, suffix: string): Promise<Shard[]> {
  if (isPattern(input)) return Promise.all(expand(input).map((path) => shardAt(path)))
  const found = await stat(input)
  if (!found.isDirectory()) return [await shardAt(input)]
  const names = (await readdir(input)).filter((name) => name.endsWith(suffix) && !name.startsWith('.'))
  return Promise.all(names.sort(byCodePoint).map((name) => shardAt(join(input, name))))
}

/** Whether an input is a pattern of file names. */
export function isPattern(input: string): boolean {
  return /\{\d+\.\.\d+\}/.test(input)
}

/**
 * The names that a pattern stands for: `a-{08..10}` is `a-08`, `a-09` and `a-10`.
 * @throws OptionsError for a range that runs backwards, and for more names than anybody has
 */
export function expand(pattern: string): string[] {
  const [range, from = '', to = ''] = /\{(\d+)\.\.(\d+)\}/.exec(pattern) ?? []
  if (range === undefined) return [pattern]
  const [first, last] = [Number(from), Number(to)]
  if (last < first || last - first >= MOST_NAMES)
    throw new OptionsError(`${pattern}: ${range} is not a range of numbers`)
  const at = pattern.indexOf(range)
  const [before, after] = [pattern.slice(0, at), pattern.slice(at + range.length)]
  const width = from.startsWith('0') ? from.length : 1
  return Array.from({ length: last - first + 1 }, (_, i) => String(first + i).padStart(width, '0')).flatMap((number) =>
    expand(`${before}${number}${after}`),
  )
}

async function shardAt(path: string): Promise<Shard> {
  const found = await stat(path).catch((error: unknown) => {
    throw unreadable(path, error)
  })
  return { path, name: path.slice(path.lastIndexOf('/') + 1), bytes: found.size }
}
