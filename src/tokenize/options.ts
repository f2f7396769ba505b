import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { addSettings, type Config, engineSettings, integer, isHttp, nonEmpty, oneOf } from '../config.ts'
import type { Crops } from './crops.ts'
import { OptionsError } from './errors.ts'
import type { Format } from './formats/format.ts'
import { formats } from './formats/index.ts'
import type { Part } from './sources/source.ts'

/** What `nativetok tokenize` was asked to do. */
export interface Options extends Pick<Config, (typeof engineSettings)[number]> {
  input: string
  out: string
  format: Format['name']
  /** Services to send images to; undefined where engines run here. */
  url: string[] | undefined
  /** Undefined: as many as the model makes. */
  length: number | undefined
  crops: Crops['crops']
  flip: boolean
  labels: 'auto' | 'none' | { csv: string }
  shardSize: number
  part: Part
  strict: boolean
  imageColumn: string | undefined
  labelColumn: string | undefined
}

interface Flag {
  flag: string
  /** Absent for a switch. */
  value?: string
  default?: string
  about: string
  parse?: (text: string) => unknown
}

const flags = {
  out: { flag: '--out', value: 'folder', about: 'folder to write; required', parse: nonEmpty },
  format: {
    flag: '--format',
    value: 'name',
    default: 'npy',
    about: `one of ${Object.keys(formats).join(', ')}`,
    parse: oneOf(Object.keys(formats)),
  },
  length: {
    flag: '--length',
    value: 'n',
    about: 'tokens per view; unset: as many as the model makes',
    parse: integer(1, 65_535),
  },
  crops: {
    flag: '--crops',
    value: 'name',
    default: 'centre',
    about: 'centre: one view, as the service makes it; ten: ten-crop',
    parse: oneOf(['centre', 'ten']),
  },
  flip: { flag: '--flip', about: 'adds the mirror image as a second view' },
  labels: {
    flag: '--labels',
    value: 'source',
    default: 'auto',
    about: 'auto: as the input has them; none; or a CSV file with the columns key and label',
    parse: labels,
  },
  shardSize: {
    flag: '--shard-size',
    value: 'n',
    default: '10000',
    about: 'images per shard of webdataset and parquet',
    parse: integer(1, 10_000_000),
  },
  part: {
    flag: '--part',
    value: 'k/n',
    default: '0/1',
    about: 'tokenizes the k-th of n parts of the input, k from 0',
    parse: part,
  },
  strict: { flag: '--strict', about: 'stops at the first image that fails' },
  imageColumn: {
    flag: '--image-column',
    value: 'name',
    about: "Parquet: the images' column, if it cannot be told",
    parse: nonEmpty,
  },
  labelColumn: {
    flag: '--label-column',
    value: 'name',
    about: "Parquet: the labels' column, if it is not `label`",
    parse: nonEmpty,
  },
  url: {
    flag: '--url',
    value: 'list',
    about:
      'sends images to these services instead, for example http://a:8080,http://b:8080; `NATIVETOK_API_KEY` is sent',
    parse: urls,
  },
} as const satisfies Record<string, Flag>

/**
 * Reads the command line, and the environment for what the service has as well.
 *
 * @param args without the interpreter and the script
 * @throws OptionsError
 * @throws CommanderError with exit code 0 after `--help` was printed
 */
export function readOptions(args: readonly string[], env: NodeJS.ProcessEnv): Options {
  const command = new Command('nativetok tokenize')
    .description('Turns a data set of images into a data set of tokens.')
    .argument('<input>', 'folder of images, .txt or .tsv list of paths, WebDataset .tar, .parquet, or a folder of them')
    .helpOption('-h, --help', 'print this help and exit')
    .allowExcessArguments(false)
    .configureHelp({ helpWidth: 100 })
    .configureOutput({ writeErr: () => {} })
    .exitOverride()
  for (const [name, flag] of Object.entries<Flag>(flags)) command.addOption(optionOf(name, flag))
  try {
    addSettings(command, engineSettings, env)
    command.parse(args, { from: 'user' })
  } catch (error) {
    if (error instanceof Error && 'exitCode' in error && error.exitCode === 0) throw error
    throw new OptionsError((error as Error).message.replace(/^error: /, ''))
  }
  const options: Options = { ...command.opts(), ...{ input: command.args[0] as string, model: modelOf(command, env) } }
  if (options.out === undefined) throw new OptionsError('--out is missing: name the folder to write')
  if (options.crops === 'ten' && options.flip) {
    throw new OptionsError('--flip cannot be used with --crops ten, which has mirror images')
  }
  const local = engineSettings.find((name) => name !== 'maxPixels' && command.getOptionValueSource(name) === 'cli')
  if (options.url !== undefined && local !== undefined) {
    throw new OptionsError(`--url cannot be used with ${flagOf(command, local)}: the services decide that`)
  }
  return options
}

/** The table of docs/tokenize.md, as Markdown. */
export function optionsTable(): string {
  const own = Object.values<Flag>(flags).map((one) => {
    const value = one.value === undefined ? 'off' : one.default
    return `| \`${written(one)}\` | ${value ? `\`${value}\`` : 'unset'} | ${one.about} |`
  })
  const command = new Command()
  addSettings(command, engineSettings, {})
  const shared = command.options.map(
    ({ flags, defaultValueDescription: value, description }) =>
      `| \`${flags}\` | ${value ? `\`${value}\`` : 'unset'} | ${description} |`,
  )
  return ['| flag | default | what |', '| --- | --- | --- |', ...own, ...shared].join('\n')
}

/** The bundle that was named, or the one that comes with the product, wherever the command is run. */
function modelOf(command: Command, env: NodeJS.ProcessEnv): string {
  const { model } = command.opts<{ model: string }>()
  const named = command.getOptionValueSource('model') === 'cli' || env.NATIVETOK_MODEL !== undefined
  return named ? model : join(import.meta.dirname, '../..', model)
}

function optionOf(name: string, flag: Flag): Option {
  const option = new Option(written(flag), flag.about)
  option.attributeName = () => name
  if (flag.value === undefined) return option.default(false, 'off')
  if (flag.parse) option.argParser(flag.parse)
  if (flag.default !== undefined) option.default(flag.parse?.(flag.default) ?? flag.default, flag.default)
  return option
}

function written({ flag, value }: Flag): string {
  return value === undefined ? flag : `${flag} <${value}>`
}

function flagOf(command: Command, name: string): string {
  return command.options.find((option) => option.attributeName() === name)?.long ?? name
}

function labels(text: string): Options['labels'] {
  return text === 'auto' || text === 'none' ? text : { csv: nonEmpty(text) }
}

function part(text: string): Part {
  const [, index = '', count = ''] = /^(\d{1,7})\/(\d{1,7})$/.exec(text) ?? []
  if (index === '' || Number(index) >= Number(count)) {
    throw new InvalidArgumentError('It must be a part and the number of parts, from 0/8 to 7/8 for example.')
  }
  return { index: Number(index), count: Number(count) }
}

function urls(text: string): string[] {
  const list = text.split(',').map((url) => url.replace(/\/+$/, ''))
  if (!list.every(isHttp)) {
    throw new InvalidArgumentError('It must be a list of HTTP URLs, for example http://localhost:8080.')
  }
  return list
}
