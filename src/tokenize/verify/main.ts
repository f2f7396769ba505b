// `nativetok verify`: checks what `nativetok tokenize` wrote; see `--help`.
import '../../formats/thread-pool.ts'
import { stat } from 'node:fs/promises'
import { CommanderError } from 'commander'
import { createLog } from '../../observability/log.ts'
import { wordsOf } from '../command-line.ts'
import { messageOf, OptionsError } from '../errors.ts'
import { workFolder } from '../journal.ts'
import { type Manifest, readManifest } from '../manifest.ts'
import { readOptions } from '../options.ts'
import { openSource } from '../sources/open.ts'
import { EmbeddedTokenizer } from '../tokenizers/embedded.ts'
import { RemoteTokenizer } from '../tokenizers/remote.ts'
import type { Tokenizer } from '../tokenizers/tokenizer.ts'
import { checkErrors, checkFiles, checkRows, type Finding } from './checks.ts'
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
      process.stdout.write(`${ok ? 'ok   ' : 'WRONG'} ${check}: ${says}\n`)
      if (!ok) status = WRONG
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
  const begun = await stat(workFolder(out)).then(
    () => true,
    () => false,
  )
  if (begun) throw new Error(`${out} is not finished: the command that began it goes on with it`)
  throw new OptionsError(`${out} has no tokens.json: it is not what nativetok tokenize writes`)
}

async function* findings(options: VerifyOptions, manifest: Manifest): AsyncGenerator<Finding> {
  const { out } = options
  const sample = new Sample(manifest.counts.rows, options.sample)
  yield* checkFiles(out, manifest.files)
  yield await checkErrors(out, manifest)
  yield* checkRows(out, manifest, sample)
  if (sample.rows.size > 0) yield* encodeAgain(options, manifest, sample)
}

/** Opens the source and the model as the command that is on record did, and compares the sample. */
async function* encodeAgain(options: VerifyOptions, manifest: Manifest, sample: Sample): AsyncGenerator<Finding> {
  const recorded = readOptions(wordsOf(manifest.command).slice(2), {})
  const say = (line: string) => void process.stderr.write(`${line}\n`)
  let tokenizer: Tokenizer | undefined
  try {
    const source = await openSource({ ...recorded, input: options.input ?? recorded.input, say })
    tokenizer = await start(options, recorded, say)
    yield* checkSample(sample, manifest, { source, tokenizer, maxPixels: recorded.maxPixels })
  } catch (error) {
    const hint = '; --input and --model name the images and the bundle, --sample 0 leaves this out'
    yield { check: 'sample', ok: false, says: messageOf(error) + hint }
  } finally {
    await tokenizer?.close()
  }
}

function start(
  options: VerifyOptions,
  { url: urls, model }: { url: string[] | undefined; model: string },
  say: (line: string) => void,
): Promise<Tokenizer> {
  if (urls !== undefined && !options.modelNamed) {
    return RemoteTokenizer.start({ urls, apiKey: process.env.NATIVETOK_API_KEY, say })
  }
  const destination = { write: (line: string) => void process.stderr.write(line) }
  const log = createLog({ level: 'warn', format: 'text', destination })
  return EmbeddedTokenizer.start({ ...options, model: options.modelNamed ? options.model : model, log })
}
