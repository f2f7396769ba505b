import { isIP } from 'node:net'
import { Command, InvalidArgumentError, Option } from 'commander'
import { isApiKey } from './access/api-keys.ts'

/** Everything the service can be told, validated. Durations are seconds, sizes bytes. */
export interface Config {
  host: string
  port: number
  model: string
  provider: 'auto' | 'cuda' | 'cpu'
  devices: number[]
  engines: number | undefined
  threads: number | undefined
  tf32: boolean
  maxBatch: number | undefined
  queueLimit: number
  maxImages: number
  bodyLimit: number
  jsonBodyLimit: number
  inflightLimit: number
  maxPixels: number
  requestTimeout: number
  drainDelay: number
  apiKey: string | undefined
  apiKeysFile: string | undefined
  guard: Guardable[]
  corsOrigins: string[] | undefined
  rateLimit: number | undefined
  trustProxy: string[] | undefined
  logLevel: string
  otlpEndpoint: string | undefined
}

/** What is open to everyone unless a setting closes it. */
export type Guardable = 'health' | 'metrics'

interface Setting {
  /** Long flag; the environment variable is derived from it. */
  flag: string
  value: string
  /** What a person would write; absent where unset means something. */
  default?: string
  about: string
  parse: (text: string) => unknown
}

const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']

const settings: Record<keyof Config, Setting> = {
  host: { flag: '--host', value: 'address', default: '127.0.0.1', about: 'address to listen on', parse: nonEmpty },
  port: { flag: '--port', value: 'n', default: '8080', about: 'port; 0 takes a free one', parse: integer(0, 65535) },
  model: {
    flag: '--model',
    value: 'folder',
    default: 'models/nativetok-128',
    about: 'the bundle to serve',
    parse: nonEmpty,
  },
  provider: {
    flag: '--provider',
    value: 'name',
    default: 'auto',
    about: 'auto, cuda or cpu; auto takes CUDA where it loads',
    parse: oneOf(['auto', 'cuda', 'cpu']),
  },
  devices: {
    flag: '--devices',
    value: 'list',
    default: '0',
    about: 'CUDA devices, one engine each, as in 0,1',
    parse: integerList,
  },
  engines: {
    flag: '--engines',
    value: 'n',
    about: 'engine processes; unset: one a core, and with CUDA one a device',
    parse: integer(1, 256),
  },
  threads: {
    flag: '--threads',
    value: 'n',
    about: 'threads an engine; unset: the cores shared out',
    parse: integer(1, 1024),
  },
  tf32: {
    flag: '--tf32',
    value: 'switch',
    default: 'off',
    about: "on lets CUDA round products to TensorFloat-32 for speed; tokens differ more from the CPU's",
    parse: onOrOff,
  },
  maxBatch: {
    flag: '--max-batch',
    value: 'n',
    about: 'most items an engine takes at once; unset: 32, and with CUDA 256',
    parse: integer(1, 4096),
  },
  queueLimit: {
    flag: '--queue-limit',
    value: 'n',
    default: '4096',
    about: 'most images and sequences admitted at once; more get 503',
    parse: integer(1, 1_000_000),
  },
  maxImages: {
    flag: '--max-images',
    value: 'n',
    default: '1024',
    about: 'most images or sequences a request',
    parse: integer(1, 1_000_000),
  },
  bodyLimit: {
    flag: '--body-limit',
    value: 'size',
    default: '64MiB',
    about: 'largest body that is not JSON',
    parse: size,
  },
  jsonBodyLimit: {
    flag: '--json-body-limit',
    value: 'size',
    default: '8MiB',
    about: 'largest JSON body; parsing JSON stops everything else',
    parse: size,
  },
  inflightLimit: {
    flag: '--inflight-limit',
    value: 'size',
    default: '512MiB',
    about: 'most bytes of all bodies held at once; more get 503',
    parse: size,
  },
  maxPixels: {
    flag: '--max-pixels',
    value: 'n',
    default: '50000000',
    about: 'most pixels an image, told before it is decoded',
    parse: integer(1, 1_000_000_000),
  },
  requestTimeout: {
    flag: '--request-timeout',
    value: 'seconds',
    default: '30',
    about: 'deadline of a request, its upload included; an engine gets a third of it for a batch',
    parse: seconds(0.1, 3600),
  },
  drainDelay: {
    flag: '--drain-delay',
    value: 'seconds',
    default: '5',
    about: 'how long a terminated server goes on serving while it says it is not ready',
    parse: seconds(0, 3600),
  },
  apiKey: {
    flag: '--api-key',
    value: 'key',
    about: 'key that clients must send; better set in the environment, where no process list shows it',
    parse: apiKey,
  },
  apiKeysFile: {
    flag: '--api-keys-file',
    value: 'file',
    about: 'file of keys, one a line as `key` or `name key`, read again when it changes; instead of one key',
    parse: nonEmpty,
  },
  guard: {
    flag: '--guard',
    value: 'list',
    default: 'none',
    about: 'what else needs a key: health, metrics or health,metrics',
    parse: guardables,
  },
  corsOrigins: {
    flag: '--cors-origins',
    value: 'list',
    about: 'origins whose pages may call from a browser, as in https://a.example,https://b.example; * is any',
    parse: origins,
  },
  rateLimit: {
    flag: '--rate-limit',
    value: 'n',
    about: "requests a minute by one client, told by its key's name or else its address; more get 429",
    parse: integer(1, 1_000_000),
  },
  trustProxy: {
    flag: '--trust-proxy',
    value: 'list',
    about: 'addresses and networks of proxies whose `X-Forwarded-For` is believed, as in 10.0.0.0/8',
    parse: networks,
  },
  logLevel: {
    flag: '--log-level',
    value: 'level',
    default: 'info',
    about: logLevels.join(', '),
    parse: oneOf(logLevels),
  },
  otlpEndpoint: {
    flag: '--otlp-endpoint',
    value: 'url',
    about: 'OpenTelemetry collector that gets a trace of every request over HTTP, as in http://localhost:4318',
    parse: httpUrl,
  },
}

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
    .helpOption('-h, --help', 'print this and exit')
    .allowExcessArguments(false)
    .configureHelp({ helpWidth: 100 })
    .configureOutput({ writeErr: () => {} })
    .exitOverride()
  for (const [name, setting] of Object.entries(settings)) command.addOption(option(name, setting, env))
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
    throw new ConfigError('--api-key and --api-keys-file exclude each other: write the key into the file.')
  }
  if (config.guard.length > 0 && config.apiKey === undefined && config.apiKeysFile === undefined) {
    throw new ConfigError(`--guard ${config.guard} needs --api-key or --api-keys-file: nobody could pass.`)
  }
  return config
}

/** The README's configuration table, as Markdown. */
export function settingsTable(): string {
  const rows = Object.values(settings).map(
    (s) =>
      `| \`${s.flag} <${s.value}>\` | \`${variable(s)}\` | ${s.default ? `\`${s.default}\`` : 'unset'} | ${s.about} |`,
  )
  return ['| flag | environment | default | what |', '| --- | --- | --- | --- |', ...rows].join('\n')
}

function option(name: string, setting: Setting, env: NodeJS.ProcessEnv): Option {
  const option = new Option(`${setting.flag} <${setting.value}>`, setting.about)
  option.attributeName = () => name
  option.argParser((text: string) => setting.parse(text))
  // Commander reads process.env alone; a default of ours is what a test or an embedder can replace.
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
      `${settings[low].flag} (${config[low]}) is over ${settings[high].flag} (${config[high]}): such a request could never be served.`,
    )
  }
}

function integer(min: number, max: number): (text: string) => number {
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
      throw new InvalidArgumentError(`It must be seconds from ${min} to ${max}.`)
    }
    return value
  }
}

function size(text: string): number {
  const units: Record<string, number> = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }
  const [, count, unit] = /^(\d+)(|KiB|MiB|GiB)$/.exec(text) ?? []
  const bytes = Number(count) * (units[unit ?? ''] ?? Number.NaN)
  if (count === undefined || bytes < 1024 || bytes > 2 ** 36) {
    throw new InvalidArgumentError('It must be bytes from 1KiB to 64GiB, as in 8388608 or 8MiB.')
  }
  return bytes
}

function integerList(text: string): number[] {
  if (!/^\d{1,3}(,\d{1,3})*$/.test(text)) throw new InvalidArgumentError('It must be device numbers, as in 0,1.')
  const list = text.split(',').map(Number)
  if (new Set(list).size !== list.length) throw new InvalidArgumentError('It must not name a device twice.')
  return list
}

function oneOf(choices: string[]): (text: string) => string {
  return (text) => {
    if (!choices.includes(text)) throw new InvalidArgumentError(`It must be one of ${choices.join(', ')}.`)
    return text
  }
}

function onOrOff(text: string): boolean {
  return oneOf(['on', 'off'])(text) === 'on'
}

function nonEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('It must not be empty.')
  return text
}

function apiKey(text: string): string {
  if (!isApiKey(text)) throw new InvalidArgumentError('It must be printable ASCII without spaces, and not empty.')
  return text
}

function guardables(text: string): Guardable[] {
  if (text === 'none') return []
  return text.split(',').map((name) => oneOf(['health', 'metrics'])(name) as Guardable)
}

function origins(text: string): string[] {
  const list = text.split(',')
  const wrong = list.find((origin) => origin !== '*' && !(isHttp(origin) && new URL(origin).origin === origin))
  if (wrong !== undefined) {
    throw new InvalidArgumentError('It must be origins, as in https://a.example or http://localhost:3000, or *.')
  }
  return list
}

function networks(text: string): string[] {
  const list = text.split(',')
  for (const network of list) {
    const [address = '', bits = '0', ...rest] = network.split('/')
    const most = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1
    if (rest.length > 0 || !/^\d{1,3}$/.test(bits) || Number(bits) > most) {
      throw new InvalidArgumentError('It must be addresses or networks, as in 10.0.0.0/8,::1.')
    }
  }
  return list
}

function httpUrl(text: string): string {
  if (!isHttp(text)) throw new InvalidArgumentError('It must be a URL, as in http://localhost:4318.')
  return text
}

function isHttp(text: string): boolean {
  return ['http:', 'https:'].includes(URL.parse(text)?.protocol ?? '')
}
