import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { CommanderError } from 'commander'
import { OptionsError } from '../../src/tokenize/errors.ts'
import { optionsTable, readOptions } from '../../src/tokenize/options.ts'

test('defaults', () => {
  const { model, ...options } = readOptions(['photos', '--out', 'tokens'], {})
  assert.deepEqual(options, {
    ...{ input: 'photos', out: 'tokens', format: 'npy', crops: 'centre', flip: false, labels: 'auto', strict: false },
    ...{ part: { index: 0, count: 1 }, shardSize: 10_000 },
    ...{ provider: 'auto', devices: [0], tf32: false, maxPixels: 50_000_000 },
  })
  // The bundle that comes with the product, from wherever the command is run.
  assert.equal(model, join(import.meta.dirname, '../../models/nativetok-128'))
})

test('flags, and the environment for what the service has as well', () => {
  const args = ['in', '--out', 'o', '--part', '3/8', '--labels', 'l.csv', '--flip', '--strict', '--length', '32']
  const options = readOptions([...args, '--engines', '3'], { NATIVETOK_ENGINES: '2', NATIVETOK_MODEL: 'm' })
  assert.deepEqual([options.engines, options.model], [3, 'm'])
  assert.deepEqual([options.part, options.labels], [{ index: 3, count: 8 }, { csv: 'l.csv' }])
  assert.deepEqual([options.flip, options.strict, options.length], [true, true, 32])
  const { url } = readOptions(['in', '--out', 'o', '--url', 'http://a:1/,https://b'], { NATIVETOK_ENGINES: '2' })
  assert.deepEqual(url, ['http://a:1', 'https://b'])
})

test('what cannot be meant is refused in a sentence that names it', () => {
  for (const [args, message] of [
    [[], /missing required argument 'input'/],
    [['in'], /--out is missing/],
    [['in', 'more', '--out', 'o'], /too many arguments/],
    [['in', '--out', 'o', '--format', 'csv'], /--format.*csv.*llamagen, randar, jsonl, webdataset, parquet, npy/],
    [['in', '--out', 'o', '--crops', 'five'], /--crops.*centre, ten/],
    [['in', '--out', 'o', '--crops', 'ten', '--flip'], /--flip cannot be used with --crops ten/],
    [['in', '--out', 'o', '--length', '0'], /--length.*from 1 to 65535/],
    [['in', '--out', 'o', '--part', '8/8'], /--part.*from 0\/8 to 7\/8/],
    [['in', '--out', 'o', '--url', 'a:8080'], /--url.*HTTP URLs/],
    [['in', '--out', 'o', '--url', 'http://a', '--engines', '2'], /--url cannot be used with --engines/],
    [['in', '--out', 'o', '--port', '1'], /unknown option '--port'/],
  ] as const) {
    assert.throws(
      () => readOptions(args, {}),
      (error) => {
        assert.ok(error instanceof OptionsError, String(error))
        assert.match(error.message, message)
        return true
      },
    )
  }
  assert.throws(() => readOptions(['in', '--out', 'o'], { NATIVETOK_MAX_BATCH: 'x' }), /NATIVETOK_MAX_BATCH is 'x'/)
})

test('--help lists every option', (t) => {
  const out = t.mock.method(process.stdout, 'write', () => true)
  assert.throws(
    () => readOptions(['--help'], {}),
    (error) => error instanceof CommanderError && error.exitCode === 0,
  )
  const help = out.mock.calls.map((call) => call.arguments[0]).join('')
  out.mock.restore()
  for (const row of optionsTable().split('\n').slice(2)) {
    const flag = /`([^`]+)`/.exec(row)?.[1] ?? '?'
    assert.ok(help.includes(flag), flag)
  }
})

test('the guide has the same table of options as the code', () => {
  const guide = readFileSync(new URL('../../docs/tokenize.md', import.meta.url), 'utf8')
  // Formatters pad the columns of a table.
  const plain = (markdown: string) => markdown.replaceAll(/ +/g, ' ').replaceAll(/-{3,}/g, '---')
  assert.ok(plain(guide).includes(plain(optionsTable())), `docs/tokenize.md must have this table:\n${optionsTable()}`)
})
