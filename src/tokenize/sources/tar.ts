import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { extract, type Header } from 'tar-stream'
import { ItemError, OptionsError, readFailed } from '../errors.ts'
import { integerLabels, isInteger, type Labels, namedLabels } from './labels.ts'
import { type Shard, shardsOf } from './shards.ts'
import { type Item, isImageSuffix, type Part, type Position, type Source, sliceOf } from './source.ts'

/** Members are padded to whole blocks, and two blocks of zeros end an archive. */
const BLOCK = 512
const READ_BYTES = 2 ** 20

/** A member of a tar, to be read to its end or resumed. */
type Member = AsyncIterable<unknown> & { header: Header; resume(): unknown }

/** Consecutive members with one key. */
interface Sample {
  key: string
  /** Bytes by suffix, of images and labels only. */
  files: Map<string, Buffer>
  /** A suffix that two of its members have. */
  twice: string | undefined
  /** Where its last member ends in the shard. */
  end: number
}

/**
 * WebDataset tars: consecutive members whose names are equal up to the first dot of the base name make a sample, with its
 * image under an image's suffix and its label under `.cls`. Other members are left out. Names and sizes of the shards are
 * its listing.
 *
 * There are labels if the first sample has a `.cls`. Labels are integers if the first one is; else they are names, which takes
 * one pass over all shards to rank them.
 *
 * @param say receives a sentence before that pass
 * @throws OptionsError if there is no image, or there are fewer shards than parts; Error naming a shard that is cut off or damaged
 */
export async function openTar(
  input: string,
  { labels, part, say }: { labels: boolean; part: Part; say(line: string): void },
): Promise<Source> {
  const all = await shardsOf(input, '.tar')
  if (all.length < part.count) {
    throw new OptionsError(
      `${input} has ${all.length} ${all.length === 1 ? 'shard' : 'shards'}, which cannot be split into ${part.count} parts`,
    )
  }
  for (const shard of all) await checkEnd(shard)
  const digest = createHash('sha256')
  for (const { name, bytes } of all) digest.update(`${name}\t${bytes}\0`)
  if (!(await hasImage(all))) throw new OptionsError(`${input} holds no image files`)
  const shards = all.slice(...sliceOf(all.length, part))
  const numbers = labels ? await labelsIn(all, say) : undefined
  let total = 0
  const before = shards.map(({ bytes }) => {
    total += bytes
    return total - bytes
  })

  async function* items(from: Position): AsyncGenerator<Item> {
    let index = from.image
    for (let shard = from.shard ?? 0; shard < shards.length; shard++) {
      const start = shard === from.shard ? (from.offset ?? 0) : 0
      for await (const { key, files, twice, end } of samplesIn(shards[shard] as Shard, start)) {
        const label = attempt(() => labelOf(files, numbers, labels))
        const image = attempt(() => imageOf(files, twice))
        yield {
          ...{ index, key, label: label.value, next: { image: index + 1, shard, offset: end } },
          done: (before[shard] as number) + end,
          read: async () => {
            if (label.error !== undefined) throw label.error
            if (image.value === undefined) throw image.error
            return image.value
          },
        }
        index++
      }
    }
  }
  return {
    kind: 'tar',
    size: { unit: 'bytes', count: total },
    digest: digest.digest('hex'),
    labels: numbers !== undefined,
    classes: numbers?.classes,
    items,
  }
}

/** A value, or why there is none. */
function attempt<T>(make: () => T): { value: T | undefined; error: unknown } {
  try {
    return { value: make(), error: undefined }
  } catch (error) {
    return { value: undefined, error }
  }
}

function imageOf(files: Map<string, Buffer>, twice: string | undefined): Buffer {
  if (twice !== undefined) throw new ItemError(`has two members with the suffix .${twice}`)
  const [image, another] = [...files].filter(([suffix]) => suffix !== 'cls')
  if (image === undefined) throw new ItemError('has no image')
  if (another !== undefined) throw new ItemError(`has two images, .${image[0]} and .${another[0]}`)
  return image[1]
}

function labelOf(files: Map<string, Buffer>, labels: Labels | undefined, wanted: boolean): number | undefined {
  const text = files.get('cls')?.toString('utf8').trim()
  if (labels === undefined) {
    if (text !== undefined && wanted) throw new ItemError('has a .cls, which the first image does not have')
    return undefined
  }
  if (text === undefined) throw new ItemError('has no .cls')
  if (text === '') throw new ItemError('has an empty .cls')
  return labels.of(text)
}

async function hasImage(shards: Shard[]): Promise<boolean> {
  for (const shard of shards) {
    for await (const { files } of samplesIn(shard, 0, (suffix) => isImageSuffix(`.${suffix}`))) {
      if (files.size > 0) return true
    }
  }
  return false
}

async function labelsIn(shards: Shard[], say: (line: string) => void): Promise<Labels | undefined> {
  let labels: Labels | undefined
  for (const shard of shards) {
    for await (const { files } of samplesIn(shard, 0)) {
      const first = files.get('cls')?.toString('utf8').trim()
      if (first === undefined) return labels
      // An empty one is a label that is missing; the next ones tell what labels are.
      labels = integerLabels
      if (first === '') continue
      if (isInteger(first)) return labels
      say('labels are names: reading all of them first, to rank them')
      return namedLabels(await namesIn(shards))
    }
  }
  return labels
}

async function namesIn(shards: Shard[]): Promise<Set<string>> {
  const names = new Set<string>()
  for (const shard of shards) {
    for await (const { files } of samplesIn(shard, 0, (suffix) => suffix === 'cls')) {
      const name = files.get('cls')?.toString('utf8').trim()
      if (name) names.add(name)
    }
  }
  return names
}

/**
 * A shard that was cut off between two members reads like a shorter one; only its end tells.
 * @throws Error naming the shard
 */
async function checkEnd({ path, bytes }: Shard): Promise<void> {
  const file = await open(path)
  try {
    const end = Buffer.alloc(2 * BLOCK, 1)
    if (bytes >= end.length) {
      await file.read(end, 0, end.length, bytes - end.length).catch((error: unknown) => {
        throw readFailed(`${path} cannot be read`, error)
      })
    }
    if (bytes % BLOCK !== 0 || end.some((byte) => byte !== 0)) {
      throw new Error(`${path} is cut off, or no tar: it does not end in two blocks of zeros`)
    }
  } finally {
    await file.close()
  }
}

/** @param start where a member begins */
async function* samplesIn(
  { path }: Shard,
  start: number,
  wanted = (suffix: string) => suffix === 'cls' || isImageSuffix(`.${suffix}`),
): AsyncGenerator<Sample> {
  let sample: Sample | undefined
  for await (const entry of membersOf(path, start)) {
    const [, key, suffix = ''] = memberName.exec(nameOf(entry.header)) ?? []
    if (key === undefined || entry.header.type !== 'file') {
      entry.resume()
      continue
    }
    if (sample !== undefined && sample.key !== key) {
      yield sample
      sample = undefined
    }
    sample ??= { key, files: new Map(), twice: undefined, end: 0 }
    const kind = suffix.toLowerCase()
    if (sample.files.has(kind)) sample.twice = kind
    if (wanted(kind)) sample.files.set(kind, await bytesOf(entry))
    else entry.resume()
    sample.end = start + endOf(entry.header)
  }
  if (sample !== undefined) yield sample
}

/** Folders and base name up to its first dot, then the suffix. Names without a dot are left out, and `__x__`. */
const memberName = /^(?!__[^/]*__(?:[/.]|$))((?:.*\/)?[^./][^./]*)\.([^/]*)$/s

function nameOf({ name }: Header): string {
  return name.replace(/^(?:\.\/)+/, '')
}

async function* membersOf(path: string, start: number): AsyncGenerator<Member> {
  const file = createReadStream(path, { start, highWaterMark: READ_BYTES })
  const members = extract()
  file.on('error', (error) => members.destroy(error)).pipe(members)
  try {
    yield* members
  } catch (error) {
    throw readFailed(`${path} cannot be read on as a tar`, error)
  } finally {
    file.destroy()
  }
}

async function bytesOf(entry: Member): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of entry) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Where a member's data and padding end, from where reading began. */
function endOf(header: Header): number {
  const { byteOffset, size } = header as Header & { byteOffset: number }
  return Math.ceil((byteOffset + size) / BLOCK) * BLOCK
}
