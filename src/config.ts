import { isIP } from 'node:net'
import { Command, InvalidArgumentError, Option } from 'commander'

/** What needs no key unless a setting says so. */
export type Guardable = 'health' | 'metrics'

interface Setting {
  /** Long flag; the environment variable is derived from it. */
  flag: string
  value: string
  /** As a person would write it; absent if "unset" has a meaning of its own. */
  default?: string
  about: string
  parse: (text: string) => unknown
}

/** Every setting of the service, validated. Durations are in seconds, sizes in bytes. */
export type Config = {
  [Name in keyof typeof settings]:
    | ReturnType<(typeof settings)[Name]['parse']>
    | ((typeof settings)[Name] extends { default: string } ? never : undefined)
}

const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']

const settings = {
  host: { flag: '--host', value: 'address', default: '127.0.0.1', about: 'address to listen on', parse: nonEmpty },
  port: {
    flag: '--port',
    value: 'n',
    default: '8080',
    about: 'port to listen on; 0 picks a free one',
    parse: integer(0, 65535),
  },
  model: {
    flag: '--model',
    value: 'folder',
    default: 'models/nativetok-128',
    about: 'folder of the bundle to serve',
    parse: nonEmpty,
  },
  cache: {
    flag: '--cache',
    value: 'folder',
    about: "keeps optimised graphs and compiled code; unset: nativetok in the user's cache folder; none: nowhere",
    parse: nonEmpty,
  },
  provider: {
    flag: '--provider',
    value: 'name',
    default: 'auto',
    about: 'auto, cuda or cpu; auto uses CUDA if it loads',
    parse: oneOf(['auto', 'cuda', 'cpu']),
  },
  devices: {
    flag: '--devices',
    value: 'list',
    default: '0',
    about: 'CUDA devices, one engine on each, for example 0,1',
    parse: integerList,
  },
  engines: {
    flag: '--engines',
    value: 'n',
    about: 'engine processes; unset: one per core, with CUDA one per device',
    parse: integer(1, 256),
  },
  threads: {
    flag: '--threads',
    value: 'n',
    about: 'threads per engine; unset: the cores divided by the engines',
    parse: integer(1, 1024),
  },
  tf32: {
    flag: '--tf32',
    value: 'switch',
    default: 'off',
    about: "on lets CUDA use TensorFloat-32: faster, but tokens differ more from the CPU's",
    parse: onOrOff,
  },
  maxBatch: {
    flag: '--max-batch',
    value: 'n',
    about: 'maximum batch size; unset: 32, with CUDA 256',
    parse: integer(1, 4096),
  },
  queueLimit: {
    flag: '--queue-limit',
    value: 'n',
    default: '4096',
    about: 'maximum number of images and sequences in the server at once; beyond it requests get 503',
    parse: integer(1, 1_000_000),
  },
  maxImages: {
    flag: '--max-images',
    value: 'n',
    default: '1024',
    about: 'maximum number of images or sequences per request',
    parse: integer(1, 1_000_000),
  },
  bodyLimit: {
    flag: '--body-limit',
    value: 'size',
    default: '64MiB',
    about: 'maximum size of a body that is not JSON',
    parse: size,
  },
  jsonBodyLimit: {
    flag: '--json-body-limit',
    value: 'size',
    default: '8MiB',
    about: 'maximum size of a JSON body; while JSON is parsed the server does nothing else',
    parse: size,
  },
  inflightLimit: {
    flag: '--inflight-limit',
    value: 'size',
    default: '512MiB',
    about: 'maximum size of all bodies in memory together; beyond it requests get 503',
    parse: size,
  },
  maxPixels: {
    flag: '--max-pixels',
    value: 'n',
    default: '50000000',
    about: 'maximum number of pixels per image, checked before it is decoded',
    parse: integer(1, 1_000_000_000),
  },
  requestTimeout: {
    flag: '--request-timeout',
    value: 'seconds',
    default: '30',
    about: 'deadline of a request, including its upload; an engine has a third of it for a batch',
    parse: seconds(0.1, 3600),
  },
  drainDelay: {
    flag: '--drain-delay',
    value: 'seconds',
    default: '5',
    about: 'how long the server keeps serving after SIGTERM while it reports that it is not ready',
    parse: seconds(0, 3600),
  },
  apiKey: {
    flag: '--api-key',
    value: 'key',
    about: 'key that clients must send; set it in the environment, where no process list shows it',
    parse: apiKey,
  },
  apiKeysFile: {
    flag: '--api-keys-file',
    value: 'file',
    about: 'file of keys, one per line as `key` or `name key`, reloaded when it changes; replaces --api-key',
    parse: nonEmpty,
  },
  guard: {
    flag: '--guard',
    value: 'list',
    default: 'none',
    about: 'what else requires a key: health, metrics or health,metrics',
    parse: guardables,
  },
  corsOrigins: {
    flag: '--cors-origins',
    value: 'list',
    about: 'origins whose pages may call the service, for example https://a.example,https://b.example; * allows all',
    parse: origins,
  },
  rateLimit: {
    flag: '--rate-limit',
    value: 'n',
    about: 'requests per minute and key holder, or per address without a key; beyond it requests get 429',
    parse: integer(1, 1_000_000),
  },
  trustProxy: {
    flag: '--trust-proxy',
    value: 'list',
    about: 'addresses and networks of proxies whose `X-Forwarded-For` is trusted, for example 10.0.0.0/8',
    parse: networks,
  },
  logFormat: {
    flag: '--log-format',
    value: 'format',
    default: 'auto',
    about: 'text for people, json for programs; auto is text in a terminal and json elsewhere',
    parse: oneOf(['auto', 'json', 'text']),
  },
  logLevel: {
    flag: '--log-level',
    value: 'level',
    default: 'info',
    about: `one of ${logLevels.join(', ')}`,
    parse: oneOf(logLevels),
  },
  otlpEndpoint: {
    flag: '--otlp-endpoint',
    value: 'url',
    about: 'OpenTelemetry collector that receives a trace of every request, for example http://localhost:4318',
    parse: httpUrl,
  },
} as const satisfies Record<string, Setting>

/** A setting, or two together, that cannot be used. `message` is a sentence for the person who set it. */
export class ConfigError extends Error {}

/**
 * Reads flags, then the environment, then defaults.
 *
 * @param args command line without the interpreter and the script
 * @param env where `NATIVETOK_*` are looked up
 * @throws ConfigError naming the setting, its value and where it came from
 * @throws CommanderError with exit code 0 after `--help` was printed
 */
export function readConfig(args: readonly string[], env: NodeJS.ProcessEnv): Config {
  const command = new Command('nativetok')
    .description('Serves a NativeTok bundle over HTTP: images to ordered tokens and back.')
    .helpOption('-h, --help', 'print this help and exit')
    .allowExcessArguments(false)
    .configureHelp({ helpWidth: 100 })
    .configureOutput({ writeErr: () => {} })
    .exitOverride()
  addSettings(command, Object.keys(settings) as (keyof Config)[], env)
  try {
    command.parse(args, { from: 'user' })
  } catch (error) {
    if (error instanceof Error && 'exitCode' in error && error.exitCode === 0) throw error
    throw new ConfigError((error as Error).message.replace(/^error: /, ''))
  }
  const config: Config = command.opts()
  requireAtMost(config, 'maxImages', 'queueLimit')
  requireAtMost(config, 'jsonBodyLimit', 'bodyLimit')
  requireAtMost(config, 'bodyLimit', 'inflightLimit')
  if (config.apiKey !== undefined && config.apiKeysFile !== undefined) {
    throw new ConfigError('--api-key and --api-keys-file cannot be used together: put the key into the file.')
  }
  if (config.guard.length > 0 && config.apiKey === undefined && config.apiKeysFile === undefined) {
    throw new ConfigError(
      `--guard ${config.guard} needs --api-key or --api-keys-file; without keys nobody could get in.`,
    )
  }
  return config
}

/** The settings that say which model runs and how. Other programs than the service have them as well. */
export const engineSettings = [
  ...(['model', 'cache', 'provider', 'devices', 'engines', 'threads', 'tf32', 'maxBatch', 'maxPixels'] as const),
]

/** Adds settings to a command line, with their defaults or what the environment says. @throws ConfigError */
export function addSettings(command: Command, names: readonly (keyof Config)[], env: NodeJS.ProcessEnv): void {
  for (const name of names) command.addOption(option(name, settings[name], env))
}

/** The table of docs/configuration.md, as Markdown. */
export function settingsTable(names: readonly (keyof Config)[] = Object.keys(settings) as (keyof Config)[]): string {
  const chosen: Setting[] = names.map((name) => settings[name])
  const rows = chosen.map(
    (s) =>
      `| \`${s.flag} <${s.value}>\` | \`${variable(s)}\` | ${s.default ? `\`${s.default}\`` : 'unset'} | ${s.about} |`,
  )
  return ['| flag | environment | default | what |', '| --- | --- | --- | --- |', ...rows].join('\n')
}

function option(name: string, setting: Setting, env: NodeJS.ProcessEnv): Option {
  const option = new Option(`${setting.flag} <${setting.value}>`, setting.about)
  option.attributeName = () => name
  option.argParser((text: string) => setting.parse(text))
  // Commander reads only process.env; with defaults set here, tests can pass another environment.
  const given = env[variable(setting)]
  const text = given ?? setting.default
  option.description += ` [${variable(setting)}]`
  if (text !== undefined) {
    try {
      option.default(setting.parse(text), setting.default ?? 'unset')
    } catch (error) {
      throw new ConfigError(`${variable(setting)} is '${text}': ${(error as Error).message}`)
    }
  }
  return option
}

function variable(setting: Setting): string {
  return `NATIVETOK_${setting.flag.slice(2).toUpperCase().replaceAll('-', '_')}`
}

type NumberSetting = 'maxImages' | 'queueLimit' | 'jsonBodyLimit' | 'bodyLimit' | 'inflightLimit'

function requireAtMost(config: Config, low: NumberSetting, high: NumberSetting): void {
  if (config[low] > config[high]) {
    throw new ConfigError(
      `${settings[low].flag} (${config[low]}) is larger than ${settings[high].flag} (${config[high]}); such a request could never be served.`,
    )
  }
}

export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
    }
    return value
  }
}

function seconds(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!/^\d+(\.\d+)?$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a number of seconds from ${min} to ${max}.`)
    }
    return value
  }
}

function size(text: string): number {
  const units: Record<string, number> = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }
  const [, count, unit] = /^(\d+)(|KiB|MiB|GiB)$/.exec(text) ?? []
  const bytes = Number(count) * (units[unit ?? ''] ?? Number.NaN)
  if (count === undefined || bytes < 1024 || bytes > 2 ** 36) {
    throw new InvalidArgumentError('It must be a size from 1KiB to 64GiB, for example 8388608 or 8MiB.')
  }
  return bytes
}

function integerList(text: string): number[] {
  if (!/^\d{1,3}(,\d{1,3})*$/.test(text))
    throw new InvalidArgumentError('It must be a list of device numbers, for example 0,1.')
  const list = text.split(',').map(Number)
  if (new Set(list).size !== list.length) throw new InvalidArgumentError('It must not list a device twice.')
  return list
}

export function oneOf<const T extends string>(choices: readonly T[]): (text: string) => T {
  return (text) => {
    const choice = choices.find((one) => one === text)
    if (choice === undefined) throw new InvalidArgumentError(`It must be one of ${choices.join(', ')}.`)
    return choice
  }
}

function onOrOff(text: string): boolean {
  return oneOf(['on', 'off'])(text) === 'on'
}

export function nonEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('It must not be empty.')
  return text
}

/** Whether a text can be sent in a header unchanged. */
export function isApiKey(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text)
}

function apiKey(text: string): string {
  if (!isApiKey(text)) throw new InvalidArgumentError('It must be printable ASCII without spaces, and not empty.')
  return text
}

function guardables(text: string): Guardable[] {
  if (text === 'none') return []
  return text.split(',').map(oneOf(['health', 'metrics']))
}

function origins(text: string): string[] {
  const list = text.split(',')
  const wrong = list.find((origin) => origin !== '*' && !(isHttp(origin) && new URL(origin).origin === origin))
  if (wrong !== undefined) {
    throw new InvalidArgumentError(
      'It must be a list of origins, for example https://a.example or http://localhost:3000, or *.',
    )
  }
  return list
}

function networks(text: string): string[] {
  const list = text.split(',')
  for (const network of list) {
    const [address = '', bits = '0', ...rest] = network.split('/')
    const most = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1
    if (rest.length > 0 || !/^\d{1,3}$/.test(bits) || Number(bits) > most) {
      throw new InvalidArgumentError('It must be a list of addresses or networks, for example 10.0.0.0/8,::1.')
    }
  }
  return list
}

function httpUrl(text: string): string {
  if (!isHttp(text)) throw new InvalidArgumentError('It must be an HTTP URL, for example http://localhost:4318.')
  return text
}

export function isHttp(text: string): boolean {
  return ['http:', 'https:'].includes(URL.parse(text)?.protocol ?? '')
}
