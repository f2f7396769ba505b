import { join } from 'node:path'
import { readObject, writeWhole } from './durable.ts'
import { OptionsError } from './errors.ts'
import type { DataSet, Format, OutputFile } from './formats/format.ts'
import type { Source } from './sources/source.ts'

/** What an output is to hold. A run goes on with another one only where this is equal. */
export interface Plan {
  /** Of the product. */
  version: string
  format: { name: Format['name']; version: number; shardSize: number }
  model: { name: string; digest: string; bundle: string; imageSize: number; codebookSize: number }
  provider: string
  tokens: { length: number; views: number; crops: 'centre' | 'ten'; flip: boolean }
  /** How images became pixels. */
  preprocessing: Record<string, string | number>
  /** Images with more pixels failed. */
  maxPixels: number
  source: { kind: Source['kind']; digest: string; labels: boolean; part: string }
  /** Class names by label, where they are known. */
  classes?: readonly string[]
}

/** How many there were. */
export interface Counts {
  /** Images in the source. */
  images: number
  /** Images written. */
  rows: number
  /** Images that failed. */
  errors: number
  /** Different labels. */
  labels: number
}

/** An output's `tokens.json`: what it holds and how it was made. The same for the same input, whenever and wherever it was made. */
export interface Manifest extends Plan {
  /** Of this file. */
  manifest: 1
  counts: Counts
  command: string
  files: OutputFile[]
}

const NAME = 'tokens.json'

/**
 * The manifest of a finished output; undefined where there is none.
 * @throws OptionsError if it is damaged, or of another version
 */
export async function readManifest(out: string): Promise<Manifest | undefined> {
  const manifest = (await readObject(join(out, NAME), ['manifest'])) as Manifest | undefined
  if (manifest !== undefined && manifest.manifest !== 1)
    throw new OptionsError(`${join(out, NAME)} is not of a kind that this version reads`)
  return manifest
}

/** Writes the manifest, which makes the output a finished one. */
export async function writeManifest(out: string, manifest: Manifest): Promise<void> {
  await writeWhole(join(out, NAME), `${JSON.stringify(manifest, null, 2)}\n`)
}

/** What a format has to know of a data set. */
export function dataSetOf({ format, model, tokens, source, classes }: Omit<Plan, 'provider'>): DataSet {
  const { imageSize, codebookSize } = model
  const { length, views } = tokens
  const { shardSize } = format
  return {
    ...{ length, views, imageSize, codebookSize, labels: source.labels },
    ...(classes && { classes }),
    shardSize,
  }
}

/** The options that decide about values of a plan. */
const valued: Record<string, string> = {
  'format.name': '--format',
  'format.shardSize': '--shard-size',
  provider: '--provider',
  'tokens.length': '--length',
  'tokens.crops': '--crops',
  maxPixels: '--max-pixels',
  'source.part': '--part',
}
/** What a plan has or has not. */
const switched: Record<string, string> = { 'tokens.flip': '--flip', 'source.labels': 'labels' }

/** @throws OptionsError naming the first thing that differs */
export function checkSamePlan(out: string, begun: Plan, wanted: Plan): void {
  for (const name of [
    'version',
    'format',
    'model',
    'provider',
    'tokens',
    'preprocessing',
    'maxPixels',
    'source',
    'classes',
  ] as const) {
    const difference = differenceOf(name, begun[name], wanted[name])
    if (difference !== undefined) {
      throw new OptionsError(`${sentenceOf(out, difference)}: use another folder, or remove this one`)
    }
  }
}

interface Difference {
  /** Of the value, with dots. */
  path: string
  begun: unknown
  wanted: unknown
}

function differenceOf(path: string, begun: unknown, wanted: unknown): Difference | undefined {
  // The number of views follows from options that say more.
  if (path === 'tokens.views' || JSON.stringify(begun) === JSON.stringify(wanted)) return undefined
  if (!isRecord(begun) || !isRecord(wanted)) return { path, begun, wanted }
  for (const key of new Set([...Object.keys(begun), ...Object.keys(wanted)])) {
    const difference = differenceOf(`${path}.${key}`, begun[key], wanted[key])
    if (difference !== undefined) return difference
  }
  return undefined
}

function sentenceOf(out: string, { path, begun, wanted }: Difference): string {
  if (path === 'source.digest') {
    return `the listing of the input, or of its labels, has changed since ${out} was begun, or is that of another input`
  }
  const name = switched[path]
  if (name !== undefined) return `${out} was begun ${begun === true ? 'with' : 'without'} ${name}`
  return `${out} was begun with ${valued[path] ?? path} ${shown(begun)}, not ${shown(wanted)}`
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function shown(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? 'none')
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}
