import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { tinyBundle } from '../helpers/bundle.ts'
import { until } from '../helpers/service.ts'
import { digests, type Ended, makeFolder, readJson, start, tokenize } from './support.ts'

let folder: string
let photos: string
const model = ['--model', tinyBundle('parallel')]

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'refused-'))
  photos = await makeFolder(join(folder, 'photos'), 600)
})
after(() => rm(folder, { recursive: true }))

/** Checks that a run said one sentence, with exit status 2. */
function assertRefused({ status, stderr }: Ended, message: RegExp): void {
  assert.equal(status, 2, stderr)
  assert.match(stderr, message)
  assert.equal(stderr.trim().split('\n').length, 1, stderr)
}

test('an output in its input, or an input in its output, is refused, also through links', async () => {
  await symlink(photos, join(folder, 'link'))
  for (const [input, out, message] of [
    [photos, join(folder, 'link/a/new/out'), /link\/a\/new\/out lies inside .*photos: choose a folder outside it/],
    [join(folder, 'link'), photos, /photos lies inside .*link: choose/],
    [join(photos, 'a'), photos, /photos\/a lies inside .*photos: choose another folder/],
  ] as const) {
    assertRefused(await tokenize([input, '--out', out, ...model]), message)
  }
  assert.deepEqual((await readdir(photos)).sort(), ['a', 'b'])
})

test('an output that cannot be a folder is refused', async () => {
  const file = join(folder, 'foo.bin')
  await writeFile(file, 'mine')
  for (const [out, message] of [
    [file, /foo.bin is not a folder$/m],
    [join(file, 'below/it'), /foo.bin is not a folder$/m],
    ['/proc/nowhere/out', /\/proc\/nowhere\/out.* cannot be made \(ENOENT/],
  ] as const) {
    assertRefused(await tokenize([photos, '--out', out, ...model]), message)
  }
  assert.equal(await readFile(file, 'utf8'), 'mine')
})

test('damaged and empty shards are refused before anything is written', async () => {
  const out = join(folder, 'never')
  for (const [name, content, message] of [
    ['empty.tar', '', /empty.tar is empty$/m],
    ['empty.parquet', '', /empty.parquet is empty$/m],
    ['damaged.tar', 'no tar', /damaged.tar is cut off, or no tar/],
    ['damaged.parquet', 'no Parquet file', /damaged.parquet is no Parquet file/],
  ] as const) {
    await writeFile(join(folder, name), content)
    assertRefused(await tokenize([join(folder, name), '--out', out, ...model]), message)
  }
  assert.equal(existsSync(out), false)
})

// The kernel says that this file has 4096 bytes and fails to read them.
const failing = '/sys/class/net/lo/speed'

test('a disk that fails to read ends the run as what may pass', { skip: !existsSync(failing) }, async () => {
  for (const suffix of ['tar', 'parquet']) {
    const input = join(folder, `failing.${suffix}`)
    await symlink(failing, input)
    const { status, stderr } = await tokenize([input, '--out', join(folder, 'not'), ...model])
    assert.equal(status, 1, stderr)
    assert.match(stderr, new RegExp(`failing.${suffix} .*EINVAL`))
  }
})

test('CUDA that does not load is refused, and leaves nothing behind', {
  skip: existsSync('/dev/nvidia0') && 'there is a GPU',
}, async () => {
  const out = join(folder, 'no/cuda')
  assertRefused(
    await tokenize([photos, '--out', out, ...model, '--provider', 'cuda']),
    /CUDA was requested and does not/,
  )
  assert.equal(existsSync(join(folder, 'no')), false)
})

test('a signal before anything is written stops it with the same sentence', async () => {
  // A service that never answers holds it up there.
  const sockets: Socket[] = []
  const server = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const out = join(folder, 'stopped')
  try {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      const run = start([photos, '--out', out, '--url', `http://127.0.0.1:${port}`])
      await once(server, 'connection')
      run.process.kill(signal)
      const { status, stderr } = await run.ended
      assert.equal(status, 1, stderr)
      assert.equal(stderr, 'nativetok tokenize: stopped; the same command goes on from here\n')
    }
  } finally {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  assert.equal(existsSync(out), false)
})

test('what a kill or a loss of power leaves behind: a resume is the same, another limit or a damaged file is refused', async () => {
  const out = join(folder, 'out')
  const args = [photos, '--out', out, ...model]
  const journal = join(out, '.tokenize/journal.json')
  const run = start(args)
  await until(() => existsSync(journal))
  run.process.kill('SIGKILL')
  await run.ended
  const text = await readFile(journal, 'utf8')
  assertRefused(await tokenize([...args, '--max-pixels', '1000']), /begun with --max-pixels 50000000, not 1000: use/)
  for (const [content, message] of [
    ['', /journal.json is empty: use another folder/],
    ['{"plan":', /journal.json is damaged: use another folder/],
    ['{}', /journal.json is damaged/],
  ] as const) {
    await writeFile(journal, content)
    assertRefused(await tokenize(args), message)
  }
  await writeFile(journal, text)
  // A lock that says nothing is stale.
  await writeFile(join(out, '.tokenize/lock'), '')
  const resumed = await tokenize(args)
  assert.equal(resumed.status, 0, resumed.stderr)
  assert.equal((await readJson(join(out, 'tokens.json'))).maxPixels, 50_000_000)
  const before = await digests(out)
  assertRefused(await tokenize([...args, '--max-pixels', '1000']), /begun with --max-pixels 50000000, not 1000: use/)
  assert.deepEqual(await digests(out), before)
  await writeFile(join(out, 'tokens.json'), 'null')
  assertRefused(await tokenize(args), /tokens.json is damaged: use another folder/)
  const verify = promisify(execFile)(join(import.meta.dirname, '../../bin/nativetok'), ['verify', out])
  await assert.rejects(verify, { code: 2, stderr: /^nativetok verify: .*tokens.json is damaged/ })
})

test('a listing that has changed since is said to have', async () => {
  const [input, out] = [join(folder, 'changing'), join(folder, 'changed-out')]
  await makeFolder(input, 2)
  assert.equal((await tokenize([input, '--out', out, ...model])).status, 0)
  await mkdir(join(input, 'a/more'))
  await writeFile(join(input, 'a/more/new.webp'), 'one more')
  assertRefused(
    await tokenize([input, '--out', out, ...model]),
    /the listing of the input.* has changed since .*changed-out/,
  )
})
