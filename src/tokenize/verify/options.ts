import { Command } from 'commander'
import { addSettings, type Config, engineSettings, integer, nonEmpty } from '../../config.ts'
import { OptionsError } from '../errors.ts'

/** All but the limit on pixels: the one on record holds. */
const modelSettings = engineSettings.filter((name) => name !== 'maxPixels')

/** What `nativetok verify` was asked to do. */
export interface VerifyOptions extends Pick<Config, (typeof modelSettings)[number]> {
  out: string
  /** How many images to encode again. */
  sample: number
  /** Where the images are now; undefined: where the command that is on record found them. */
  input: string | undefined
  /** Whether a bundle was named, or else the one on record is meant. */
  modelNamed: boolean
}

/**
 * Reads the command line, and the environment for what the service has as well.
 *
 * @param args without the interpreter and the script
 * @throws OptionsError
 * @throws CommanderError with exit code 0 after `--help` was printed
 */
export function readVerifyOptions(args: readonly string[], env: NodeJS.ProcessEnv): VerifyOptions {
  const command = new Command('nativetok verify')
    .description('Checks a data set of tokens that `nativetok tokenize` wrote.')
    .argument('<out>', 'folder with tokens.json')
    .option('--sample <n>', 'images to encode again and compare; 0: none', integer(0, 1_000_000), 16)
    .option('--input <path>', 'where the images are, if not where they were', nonEmpty)
    .helpOption('-h, --help', 'print this help and exit')
    .allowExcessArguments(false)
    .configureHelp({ helpWidth: 100 })
    .configureOutput({ writeErr: () => {} })
    .exitOverride()
  try {
    addSettings(command, modelSettings, env)
    command.parse(args, { from: 'user' })
  } catch (error) {
    if (error instanceof Error && 'exitCode' in error && error.exitCode === 0) throw error
    throw new OptionsError((error as Error).message.replace(/^error: /, ''))
  }
  const modelNamed = command.getOptionValueSource('model') === 'cli' || env.NATIVETOK_MODEL !== undefined
  return { ...command.opts(), out: command.args[0], modelNamed } as VerifyOptions
}
