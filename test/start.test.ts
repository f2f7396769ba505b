import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, chown, cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'

const root = join(import.meta.dirname, '..')
let folder: string

/** What start.sh runs, observed with a fake `node` that prints its arguments and environment. */
async function started(flags: string[], env: Record<string, string> = {}) {
  const { LD_PRELOAD, MALLOC_CONF, MALLOC_ARENA_MAX, NODE_COMPILE_CACHE, NATIVETOK_CACHE, ...rest } = process.env
  const path = [folder, process.env.PATH].join(delimiter)
  const { stdout } = await promisify(execFile)(join(folder, 'app', 'start.sh'), flags, {
    env: { ...rest, ...env, PATH: path },
  })
  return JSON.parse(stdout) as { argv: string[]; preload: string; jemalloc: string; arenas: string; code: string }
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'start-'))
  const say = `const { LD_PRELOAD, MALLOC_CONF, MALLOC_ARENA_MAX, NODE_COMPILE_CACHE } = process.env
    console.log(JSON.stringify({ argv: process.argv.slice(2), preload: LD_PRELOAD ?? '', jemalloc: MALLOC_CONF ?? '',
      arenas: MALLOC_ARENA_MAX ?? '', code: NODE_COMPILE_CACHE ?? '' }))`
  await writeFile(join(folder, 'say.cjs'), say)
  await writeFile(join(folder, 'node'), `#!/bin/sh\nexec "${process.execPath}" "${folder}/say.cjs" "$@"\n`)
  await chmod(join(folder, 'node'), 0o755)
  // Without node_modules the script uses the node on the path.
  await mkdir(join(folder, 'app/src'), { recursive: true })
  for (const file of ['start.sh', 'bin/environment', 'bin/node', 'src/server.ts'])
    await cp(join(root, file), join(folder, 'app', file))
})

after(() => rm(folder, { recursive: true }))

test('it passes the flags to the server unchanged, and node gets flags that it knows', async () => {
  const { argv } = await started(['--port', '80 80', ''])
  const server = argv.findIndex((argument) => existsSync(argument))
  assert.match(argv[server] ?? '', /server\.ts$/)
  assert.deepEqual(argv.slice(server + 1), ['--port', '80 80', ''])
  await promisify(execFile)(process.execPath, [...argv.slice(0, server), '--eval', ''])
})

test('jemalloc is loaded with its settings if it is installed', async () => {
  const { preload, jemalloc, arenas } = await started([])
  assert.equal(arenas, '2')
  if (preload === '') return assert.equal(jemalloc, '')
  assert.ok(existsSync(preload), preload)
  assert.match(jemalloc, /thp:always/)
})

test('existing settings stay', async () => {
  const { preload: alone } = await started([])
  const library = '/lib/nowhere.so'
  const set = await started([], { LD_PRELOAD: library, MALLOC_CONF: 'narenas:1', MALLOC_ARENA_MAX: '7' })
  assert.equal(set.preload, alone === '' ? library : `${library}:${alone}`)
  assert.deepEqual([set.jemalloc, set.arenas], ['narenas:1', '7'])
})

test('compiled code is kept in the cache folder, where there is one', async () => {
  const cache = join(folder, 'cache')
  const codeIn = async (env: Record<string, string>) => (await started([], env)).code
  assert.equal(await codeIn({ HOME: folder, XDG_CACHE_HOME: '' }), join(folder, '.cache/nativetok/node'))
  assert.equal(await codeIn({ HOME: folder, XDG_CACHE_HOME: cache }), join(cache, 'nativetok/node'))
  assert.equal(await codeIn({ HOME: folder, NATIVETOK_CACHE: cache }), join(cache, 'node'))
  assert.equal(await codeIn({ HOME: folder, XDG_CACHE_HOME: 'cache' }), join(folder, '.cache/nativetok/node'))
  assert.equal(await codeIn({ HOME: folder, NATIVETOK_CACHE: 'none' }), '')
  assert.equal(await codeIn({ HOME: '', XDG_CACHE_HOME: '' }), '')
  assert.equal(await codeIn({ HOME: folder, NODE_COMPILE_CACHE: folder }), folder)
  const withFlags = async (...flags: string[]) => (await started(flags, { NATIVETOK_CACHE: 'none' })).code
  assert.equal(await withFlags('--cache', cache), join(cache, 'node'))
  assert.equal(await withFlags('--port', '1', `--cache=${cache} 2`), join(`${cache} 2`, 'node'))
  assert.equal((await started(['--cache', 'none'], { HOME: folder })).code, '')
})

test('compiled code is not read from a folder that others may write to', async () => {
  const cache = join(folder, 'shared')
  const codeIn = async (place: string) => (await started([], { NATIVETOK_CACHE: place })).code
  await mkdir(join(cache, 'node'), { recursive: true })
  await chmod(join(cache, 'node'), 0o770)
  assert.equal(await codeIn(cache), '')
  await chmod(join(cache, 'node'), 0o755)
  assert.equal(await codeIn(cache), join(cache, 'node'))
  if (process.getuid?.() === 0) await chown(join(cache, 'node'), 12345, 12345)
  if (process.getuid?.() === 0) assert.equal(await codeIn(cache), '')
  assert.equal(await codeIn('/proc/nowhere'), '')
  assert.equal(await codeIn(join(folder, 'say.cjs')), '')
})

test('the node that npm installed takes precedence over the one on the path', async () => {
  const { stdout } = await promisify(execFile)(join(root, 'bin/node'), ['--version'], {
    env: { PATH: '/usr/bin:/bin' },
  })
  assert.equal(stdout.trim(), process.version)
})

test('nativetok finds its place through a link, and says what it can do', async () => {
  const link = join(folder, 'nativetok')
  await symlink(join(root, 'bin/nativetok'), link)
  const { stdout } = await promisify(execFile)(link, ['tokenize', '--help'], { cwd: folder })
  assert.match(stdout, /^Usage: nativetok tokenize/)
  for (const flag of ['--help', '-h']) {
    const help = await promisify(execFile)(link, [flag])
    for (const command of ['serve', 'tokenize', 'verify'])
      assert.match(help.stdout, new RegExp(`^ +${command} +\\w`, 'm'))
  }
  for (const args of [[], ['decode']]) {
    await assert.rejects(promisify(execFile)(link, args), ({ code, stderr }) => {
      assert.equal(code, 2)
      assert.match(stderr, /serve \| tokenize \| verify/)
      return true
    })
  }
})
