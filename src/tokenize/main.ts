// `nativetok tokenize`: turns a data set of images into a data set of tokens; see `--help`.
import '../formats/thread-pool.ts'
import './stop.ts'
import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { CommanderError } from 'commander'
import pkg from '../../package.json' with { type: 'json' }
import { cacheFolder } from '../inference/inference.ts'
import { createLog } from '../observability/log.ts'
import { commandLine } from './command-line.ts'
import { preparationOf, viewCount } from './crops.ts'
import { messageOf, OptionsError } from './errors.ts'
import { formats } from './formats/index.ts'
import { readJournal, workFolder } from './journal.ts'
import { Lock } from './lock.ts'
import { checkSamePlan, dataSetOf, type Manifest, type Plan, readManifest, writeManifest } from './manifest.ts'
import { type Options, readOptions } from './options.ts'
import { checkEmpty, checkPlace, makeFolders, removeEmpty } from './out-folder.ts'
import { Progress } from './progress.ts'
import { run } from './run.ts'
import { openSource } from './sources/open.ts'
import type { Source } from './sources/source.ts'
import { stopped, untilStopped } from './stop.ts'
import { openEmbedded } from './tokenizers/embedded.ts'
import { RemoteTokenizer } from './tokenizers/remote.ts'
import type { Tokenizer, Tokenizers } from './tokenizers/tokenizer.ts'

/** Exit statuses: see docs/tokenize.md. */
const [DONE, FAILED, WRONG_OPTIONS, SOME_FAILED] = [0, 1, 2, 3]

process.exitCode = await main(process.argv.slice(2))
// What was under way when a signal came may go on for long.
if (stopped.aborted) process.exit()

async function main(args: readonly string[]): Promise<number> {
  try {
    return await tokenize(readOptions(args, process.env), commandLine(['nativetok', 'tokenize', ...args]))
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return DONE
    process.stderr.write(`nativetok tokenize: ${sentenceOf(error)}\n`)
    return error instanceof OptionsError ? WRONG_OPTIONS : FAILED
  }
}

/** @returns the exit status */
async function tokenize(options: Options, command: string): Promise<number> {
  const { out } = options
  const say = (line: string) => void process.stderr.write(`${line}\n`)
  await checkPlace(out, options.input)
  const source = await untilStopped(openInput(options, say))
  const tokenizers = await untilStopped(openTokenizers(options, say))
  const wanted = planOf(options, source, tokenizers.model)
  const finished = await readManifest(out)
  const begun = finished ?? (await readJournal(out))?.plan
  if (begun !== undefined) checkSamePlan(out, begun, { provider: begun.provider, ...wanted })
  if (finished !== undefined) {
    // A run that was killed between its last two steps leaves it.
    await rm(workFolder(out), { recursive: true, force: true })
    say(`${out} is finished: ${finished.counts.rows} images`)
    return statusOf(finished)
  }
  if (begun === undefined) await checkEmpty(out)
  const made = await makeFolders(workFolder(out))
  const lock = await Lock.take(join(workFolder(out), 'lock'))
  try {
    const tokenizer = await untilStopped(tokenizers.start())
    try {
      const plan = { ...wanted, provider: tokenizer.model.provider }
      const manifest = await write(options, { plan, source, tokenizer, command })
      await rm(workFolder(out), { recursive: true })
      return statusOf(manifest)
    } finally {
      await tokenizer.close()
    }
  } finally {
    await lock.release()
    // Of a run that has not begun to write, nothing is left.
    await removeEmpty(made)
  }
}

/**
 * Opens the source.
 * @throws OptionsError if it is none, or a file of it is damaged; Error if the system cannot read it, which may pass
 */
async function openInput(options: Options, say: (line: string) => void): Promise<Source> {
  const { input } = options
  try {
    const found = await stat(input).catch(() => undefined)
    if (found?.isFile() && found.size === 0) throw new OptionsError(`${input} is empty`)
    return await openSource({ ...options, say })
  } catch (error) {
    // Sources say in a plain error of their own that a file is damaged.
    const own = error instanceof Error && error.name === 'Error' && !('code' in error) && error.cause === undefined
    throw own ? new OptionsError(error.message) : error
  }
}

async function openTokenizers(options: Options, say: (line: string) => void): Promise<Tokenizers> {
  const { url: urls } = options
  if (urls !== undefined) {
    const tokenizer = await RemoteTokenizer.start({ urls, apiKey: process.env.NATIVETOK_API_KEY, say })
    return { model: tokenizer.model, start: async () => tokenizer }
  }
  const destination = { write: (line: string) => void process.stderr.write(line) }
  return openEmbedded({
    ...{ ...options, cache: cacheFolder(options.cache, process.env) },
    log: createLog({ level: 'warn', format: 'text', destination }),
  })
}

/** @throws OptionsError if the model or the format cannot do what was asked for */
function planOf(
  options: Options,
  source: Source,
  model: Tokenizers['model'],
): Omit<Plan, 'provider'> & Partial<Pick<Plan, 'provider'>> {
  const { length = model.length, crops, flip, maxPixels, part, shardSize } = options
  const format = formats[options.format]
  if (length > model.length || (length < model.length && !model.prefixes)) {
    throw new OptionsError(
      `--length ${length}: ${model.name} makes ${model.prefixes ? '1 to ' : 'exactly '}${model.length} tokens`,
    )
  }
  const plan = {
    version: pkg.version,
    format: { name: format.name, version: format.version, shardSize },
    model: {
      ...{ name: model.name, digest: model.model, bundle: model.bundle },
      ...{ imageSize: model.image.size, codebookSize: model.codebookSize },
    },
    ...(model.provider && { provider: model.provider }),
    tokens: { length, views: viewCount({ crops, flip }), crops, flip },
    preprocessing: preparationOf({ crops, flip }, model.image),
    maxPixels,
    source: { kind: source.kind, digest: source.digest, labels: source.labels, part: `${part.index}/${part.count}` },
    ...(source.classes && { classes: source.classes }),
  }
  format.check(dataSetOf(plan))
  return plan
}

/** Tokenizes and writes everything, and says how it went. */
async function write(
  options: Options,
  { plan, source, tokenizer, command }: { plan: Plan; source: Source; tokenizer: Tokenizer; command: string },
): Promise<Manifest> {
  const { out, crops, flip, strict } = options
  const progress = new Progress(source.size)
  const started = performance.now()
  try {
    const { counts, files, began } = await run({
      ...{ plan, source, tokenizer, format: formats[options.format], out, crops: { crops, flip } },
      ...{ image: tokenizer.model.image, strict, signal: stopped },
      reached: (reached) => progress.update(reached),
    })
    const manifest: Manifest = { manifest: 1, ...plan, counts, command, files }
    await writeManifest(out, manifest)
    const seconds = (performance.now() - started) / 1000
    const pace = ((counts.images - began) / seconds).toFixed(1)
    progress.say(`${out}: ${counts.rows} images, ${counts.errors} failed, ${pace} images/s`)
    return manifest
  } finally {
    progress.stop()
  }
}

function statusOf({ counts }: Manifest): number {
  return counts.errors > 0 ? SOME_FAILED : DONE
}

function sentenceOf(error: unknown): string {
  const { code } = error as { code?: unknown }
  // Without room, over a quota, or over a limit on file sizes.
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(String(code))) {
    return `there is no room left to write (${code}); with more of it, the same command goes on from here`
  }
  return messageOf(error)
}
