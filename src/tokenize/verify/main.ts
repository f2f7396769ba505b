// `nativetok verify`: checks what `nativetok tokenize` wrote; see `--help`.
import '../../formats/thread-pool.ts'
import { stat } from 'node:fs/promises'
import { CommanderError } from 'commander'
import { BundleError } from '../../inference/errors.ts'
import { cacheFolder } from '../../inference/inference.ts'
import { createLog } from '../../observability/log.ts'
import { wordsOf } from '../command-line.ts'
import { AbsentError, messageOf, OptionsError } from '../errors.ts'
import { workFolder } from '../journal.ts'
import { type Manifest, readManifest } from '../manifest.ts'
import { readOptions } from '../options.ts'
import { openSource } from '../sources/open.ts'
import type { Source } from '../sources/source.ts'
import { EmbeddedTokenizer } from '../tokenizers/embedded.ts'
import { RemoteTokenizer } from '../tokenizers/remote.ts'
import type { Tokenizer } from '../tokenizers/tokenizer.ts'
import { checkErrors, checkFiles, checkRows, type Finding, readFailures } from './checks.ts'
import { readVerifyOptions, type VerifyOptions } from './options.ts'
import { checkSample, Sample } from './sample.ts'

/** Exit statuses: see docs/tokenize.md. */
const [FINE, WRONG, WRONG_OPTIONS] = [0, 1, 2]

process.exitCode = await main(process.argv.slice(2))

async function main(args: readonly string[]): Promise<number> {
  try {
    const options = readVerifyOptions(args, process.env)
    let status = FINE
    for await (const { check, ok, says } of findings(options, await manifestOf(options.out))) {
      process.stdout.write(`${ok === undefined ? '-    ' : ok ? 'ok   ' : 'WRONG'} ${check}: ${says}\n`)
      if (ok === false) status = WRONG
    }
    return status
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return FINE
    process.stderr.write(`nativetok verify: ${messageOf(error)}\n`)
    return error instanceof OptionsError ? WRONG_OPTIONS : WRONG
  }
}

/** @throws OptionsError if the folder is no output; Error if it is not a finished one */
async function manifestOf(out: string): Promise<Manifest> {
  const manifest = await readManifest(out)
  if (manifest !== undefined) return manifest
  if (await exists(workFolder(out)))
    throw new Error(`${out} is not finished: the command that began it goes on with it`)
  throw new OptionsError(`${out} has no tokens.json: it is not what nativetok tokenize writes`)
}

async function* findings(options: VerifyOptions, manifest: Manifest): AsyncGenerator<Finding> {
  const { out } = options
  const sample = new Sample(manifest.counts.rows, options.sample)
  yield* checkFiles(out, manifest.files)
  const failures = await readFailures(out)
  const errors = checkErrors(failures, manifest)
  yield errors
  yield* checkRows(out, manifest, sample)
  if (sample.rows.length === 0) return
  if (!errors.ok) {
    yield { check: 'sample', ok: undefined, says: 'not checked: errors.jsonl does not tell which images have rows' }
    return
  }
  yield* encodeAgain(options, manifest, { sample, failures: failures.filter((index) => index !== undefined) })
}

/**
 * Opens the source and the model as the command that is on record did, and compares the sample. A command on record may
 * have been given elsewhere: what it names and is not there is nothing wrong with the output.
 *
 * @throws OptionsError if the input or the bundle that was named cannot be read
 */
async function* encodeAgain(
  options: VerifyOptions,
  manifest: Manifest,
  { sample, failures }: { sample: Sample; failures: readonly number[] },
): AsyncGenerator<Finding> {
  const recorded = readOptions(wordsOf(manifest.command).slice(2), {})
  const say = (line: string) => void process.stderr.write(`${line}\n`)
  let source: Source | undefined
  let tokenizer: Tokenizer | undefined
  try {
    source = await openSource({ ...recorded, input: options.input ?? recorded.input, say })
    tokenizer = await start(options, recorded, say)
    yield* checkSample(sample, manifest, { source, failures, tokenizer, maxPixels: manifest.maxPixels })
  } catch (error) {
    const named = source === undefined ? options.input !== undefined : options.modelNamed
    if (named && error instanceof OptionsError) throw error
    const absent = error instanceof AbsentError
    const hint = '; --input and --model name the images and the bundle, --sample 0 leaves this out'
    const says = `${absent ? 'not checked: ' : ''}${messageOf(error)}${hint}`
    yield { check: 'sample', ok: absent ? undefined : false, says }
  } finally {
    await tokenizer?.close()
  }
}

/** @throws OptionsError if services do not answer, a bundle on record is not there, or a named one cannot be read */
async function start(
  options: VerifyOptions,
  { url: urls, model }: { url: string[] | undefined; model: string },
  say: (line: string) => void,
): Promise<Tokenizer> {
  if (urls !== undefined && !options.modelNamed) {
    return RemoteTokenizer.start({ urls, apiKey: process.env.NATIVETOK_API_KEY, say }).catch((error: unknown) => {
      throw error instanceof OptionsError ? new AbsentError(error.message) : error
    })
  }
  const destination = { write: (line: string) => void process.stderr.write(line) }
  const log = createLog({ level: 'warn', format: 'text', destination })
  const folder = options.modelNamed ? options.model : model
  try {
    return await EmbeddedTokenizer.start({
      ...options,
      model: folder,
      cache: cacheFolder(options.cache, process.env),
      log,
    })
  } catch (error) {
    if (error instanceof BundleError) {
      if (options.modelNamed) throw new OptionsError(error.message)
      if (!(await exists(folder))) throw new AbsentError(error.message)
    }
    throw error
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
