import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { CommanderError } from 'commander'
import { ConfigError, readConfig, settingsTable } from '../src/config.ts'

test('defaults', () => {
  assert.deepEqual(readConfig([], {}), {
    host: '127.0.0.1',
    port: 8080,
    model: 'models/nativetok-128',
    provider: 'auto',
    devices: [0],
    tf32: false,
    queueLimit: 4096,
    maxImages: 1024,
    bodyLimit: 64 * 2 ** 20,
    jsonBodyLimit: 8 * 2 ** 20,
    inflightLimit: 512 * 2 ** 20,
    maxPixels: 50_000_000,
    requestTimeout: 30,
    drainDelay: 5,
    guard: [],
    logFormat: 'auto',
    logLevel: 'info',
  })
})

test('flags override the environment, and the environment overrides the defaults', () => {
  const env = {
    NATIVETOK_PORT: '9000',
    NATIVETOK_MAX_BATCH: '8',
    NATIVETOK_API_KEY: 'secret',
    NATIVETOK_DEVICES: '1,3',
    NATIVETOK_TF32: 'on',
  }
  const config = readConfig(['--port', '9001'], env)
  assert.equal(config.port, 9001)
  assert.equal(config.maxBatch, 8)
  assert.equal(config.apiKey, 'secret')
  assert.deepEqual(config.devices, [1, 3])
  assert.equal(config.tf32, true)
  assert.equal(readConfig(['--tf32', 'off'], env).tf32, false)
})

test('lists', () => {
  const lists = [
    '--guard',
    'health,metrics',
    '--cors-origins',
    '*,http://localhost:3000',
    '--trust-proxy',
    '10.0.0.0/8,::1',
  ]
  const { guard, corsOrigins, trustProxy } = readConfig(lists, { NATIVETOK_API_KEY: 'key' })
  assert.deepEqual(guard, ['health', 'metrics'])
  assert.deepEqual(corsOrigins, ['*', 'http://localhost:3000'])
  assert.deepEqual(trustProxy, ['10.0.0.0/8', '::1'])
})

test('an impossible value is refused by name', () => {
  const refused: [string[], NodeJS.ProcessEnv, RegExp][] = [
    [['--port', '65536'], {}, /--port.*65536.*from 0 to 65535/],
    [['--port', '8080x'], {}, /--port.*8080x/],
    [[], { NATIVETOK_PORT: 'http' }, /NATIVETOK_PORT.*http.*whole number/],
    [['--provider', 'tpu'], {}, /--provider.*auto, cuda, cpu/],
    [['--body-limit', '64MB'], {}, /--body-limit.*64MB.*8MiB/],
    [['--devices', '0,0'], {}, /--devices.*twice/],
    [['--tf32', 'yes'], {}, /--tf32.*yes.*on, off/],
    [['--request-timeout', '0'], {}, /--request-timeout.*seconds/],
    [[], { NATIVETOK_API_KEY: '' }, /NATIVETOK_API_KEY.*not empty/],
    [['--log-level', 'loud'], {}, /--log-level.*silent/],
    [['--guard', 'info'], {}, /--guard.*info.*health, metrics/],
    [['--guard', 'metrics'], {}, /--guard metrics needs --api-key/],
    [['--api-keys-file', 'keys'], { NATIVETOK_API_KEY: 'key' }, /cannot be used together/],
    [['--cors-origins', 'https://a.example/'], {}, /--cors-origins.*list of origins/],
    [['--cors-origins', 'a.example'], {}, /--cors-origins.*list of origins/],
    [['--trust-proxy', '10.0.0.0/33'], {}, /--trust-proxy.*networks/],
    [['--trust-proxy', 'all'], {}, /--trust-proxy.*networks/],
    [['--rate-limit', '0'], {}, /--rate-limit.*from 1/],
    [['--otlp-endpoint', 'localhost:4318'], {}, /--otlp-endpoint.*URL/],
    [['--max-images', '10', '--queue-limit', '5'], {}, /--max-images \(10\).*--queue-limit \(5\)/],
    [['--json-body-limit', '65MiB'], {}, /--json-body-limit.*--body-limit/],
    [['--threds', '2'], {}, /unknown option '--threds'/],
    [['serve'], {}, /too many arguments/],
  ]
  for (const [args, env, message] of refused) {
    assert.throws(
      () => readConfig(args, env),
      (error) => {
        assert.ok(error instanceof ConfigError)
        assert.match(error.message, message)
        return true
      },
    )
  }
})

test('--help lists every flag, its variable and its default', (t) => {
  const out = t.mock.method(process.stdout, 'write', () => true)
  assert.throws(
    () => readConfig(['--help'], {}),
    (error) => error instanceof CommanderError && error.exitCode === 0,
  )
  const help = out.mock.calls.map((call) => call.arguments[0]).join('')
  out.mock.restore()
  for (const row of settingsTable().split('\n').slice(2)) {
    const [flag = '', variable = '', fallback = ''] = [...row.matchAll(/`([^`]+)`/g)].map((match) => match[1])
    for (const word of [flag, variable, fallback]) assert.ok(help.replaceAll(/\s+/g, ' ').includes(word), word)
  }
})

test('the guide has the same table of settings as the code', () => {
  const guide = readFileSync(new URL('../docs/configuration.md', import.meta.url), 'utf8')
  // Formatters pad the columns of a table.
  const plain = (markdown: string) => markdown.replaceAll(/ +/g, ' ').replaceAll(/-{3,}/g, '---')
  assert.ok(
    plain(guide).includes(plain(settingsTable())),
    `docs/configuration.md must have this table:\n${settingsTable()}`,
  )
})
