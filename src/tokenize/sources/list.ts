import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { OptionsError, unreadable } from '../errors.ts'
import { readImage } from './folder.ts'
import { labelsOf } from './labels.ts'
import { type Item, keysOf, type Part, type Position, type Source, sliceOf } from './source.ts'

/**
 * Images named in a text file: a path per line, relative to the file's folder, with a tab and a label after it on every
 * line or on none. Labels are integers, or names that are ranked in string order. Blank lines are skipped.
 *
 * @param labels whether labels are read
 * @throws OptionsError naming the line at fault
 */
export async function openList(input: string, { labels, part }: { labels: boolean; part: Part }): Promise<Source> {
  const lines = readLines(await readText(input), input)
  const [first] = lines
  if (first === undefined) throw new OptionsError(`${input} names no image`)
  const labelled = first.label !== undefined
  const odd = lines.find(({ label }) => (label !== undefined) !== labelled)
  if (odd) {
    throw new OptionsError(`${input}: line ${odd.line} has ${labelled ? 'no' : 'a'} label, unlike the first one`)
  }
  const numbers = labels && labelled ? labelsOf(new Set(lines.map(({ label = '' }) => label))) : undefined
  const keys = keysOf(lines.map(({ path }) => path))
  const digest = createHash('sha256')
  for (const { path, label } of lines) digest.update(`${path}\t${numbers ? label : ''}\0`)
  const [start, end] = sliceOf(lines.length, part)
  const folder = dirname(input)

  async function* items({ image }: Position): AsyncGenerator<Item> {
    for (let i = start + image; i < end; i++) {
      const { path, label = '' } = lines[i] as Line
      const index = i - start
      yield {
        ...{ index, key: keys[i] as string, label: numbers?.of(label), next: { image: index + 1 }, done: index + 1 },
        read: () => readImage(resolve(folder, path)),
      }
    }
  }
  return {
    kind: 'list',
    size: { unit: 'images', count: end - start },
    digest: digest.digest('hex'),
    labels: numbers !== undefined,
    classes: numbers?.classes,
    items,
  }
}

interface Line {
  /** From 1. */
  line: number
  path: string
  label: string | undefined
}

function readLines(text: string, input: string): Line[] {
  const seen = new Map<string, number>()
  return text.split('\n').flatMap((whole, i) => {
    const line = whole.endsWith('\r') ? whole.slice(0, -1) : whole
    if (line === '') return []
    const [path = '', label, more] = line.split('\t')
    if (path === '' || label?.trim() === '' || more !== undefined) {
      throw new OptionsError(`${input}: line ${i + 1} is not a path, or a path, a tab and a label`)
    }
    const before = seen.get(path)
    if (before !== undefined) {
      throw new OptionsError(`${input}: line ${i + 1} names ${JSON.stringify(path)}, as line ${before} does`)
    }
    seen.set(path, i + 1)
    return [{ line: i + 1, path, label: label?.trim() }]
  })
}

/** Reads a text file in UTF-8. @throws OptionsError */
export async function readText(path: string): Promise<string> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw unreadable(path, error)
  })
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new OptionsError(`${path} is not text in UTF-8`)
  }
}
