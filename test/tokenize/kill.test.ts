import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { formats } from '../../src/tokenize/formats/index.ts'
import { tinyBundle } from '../helpers/bundle.ts'
import { until } from '../helpers/service.ts'
import { digests, makeFolder, readJson, start, tokenize } from './support.ts'

const IMAGES = 1500
const KILLS = 2
const LONGEST_MS = 800
let folder: string

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kill-'))
  await makeFolder(join(folder, 'photos'), IMAGES, true)
})
after(() => rm(folder, { recursive: true }))

/** Arguments for an output called `out` in a folder of its own, so that manifests name the same command. */
async function place(name: string): Promise<string> {
  const cwd = join(folder, name)
  await mkdir(cwd)
  return cwd
}
const args = (format: string) => [
  ...[
    '../photos',
    '--out',
    'out',
    '--format',
    format,
    '--flip',
    '--shard-size',
    '300',
    '--engines',
    '1',
    '--model',
    tinyBundle('parallel'),
  ],
]

/** How many images a run had behind it at its last commit. */
async function committed(cwd: string): Promise<number> {
  const text = await readFile(join(cwd, 'out/.tokenize/journal.json'), 'utf8').catch(() => undefined)
  return text === undefined ? 0 : JSON.parse(text).state.position.image
}

for (const format of Object.keys(formats)) {
  test(`${format}: killed at random moments, it ends as if nothing had happened`, async (t) => {
    const [whole, killed] = [await place(`${format}-whole`), await place(`${format}-killed`)]
    assert.equal((await tokenize(args(format), { cwd: whole })).status, 3)
    const behind: number[] = []
    while (behind.length < KILLS) {
      const run = start(args(format), { cwd: killed })
      let over = false
      void run.ended.then(() => {
        over = true
      })
      // Every second kill may come at any moment of the start, the others come while images are written.
      const before = await committed(killed)
      if (behind.length % 2 === 1) await until(async () => over || (await committed(killed)) > before)
      await sleep(Math.random() * LONGEST_MS)
      run.process.kill('SIGKILL')
      const { status } = await run.ended
      assert.ok(status === 'SIGKILL' || status === 3, String(status))
      behind.push(await committed(killed))
      if (status === 3) break
    }
    t.diagnostic(`killed after ${behind} of ${IMAGES + IMAGES / 50} images`)
    assert.ok(behind.length > 1)
    const { status, stderr } = await tokenize(args(format), { cwd: killed })
    assert.equal(status, 3, stderr)
    assert.deepEqual(await digests(join(killed, 'out')), await digests(join(whole, 'out')))
    const { counts } = await readJson(join(killed, 'out/tokens.json'))
    assert.deepEqual(counts, { images: IMAGES * 1.02, rows: IMAGES, errors: IMAGES / 50, labels: 2 })
  })
}

test('stopped by a signal, it says so, and goes on from there', async () => {
  const cwd = await place('stopped')
  const run = start(args('npy'), { cwd })
  await until(async () => (await committed(cwd)) > 0)
  run.process.kill('SIGTERM')
  const { status, stderr } = await run.ended
  assert.equal(status, 1, stderr)
  assert.match(stderr, /^nativetok tokenize: stopped; the same command goes on from here$/m)
  assert.equal((await tokenize(args('npy'), { cwd })).status, 3)
  assert.deepEqual(await digests(join(cwd, 'out')), await digests(join(folder, 'npy-whole/out')))
})

/** Whether this process may mount a file system of its own. */
function canMount(): boolean {
  try {
    execFileSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', 'none', tmpdir()])
    return true
  } catch {
    return false
  }
}

test('a full disk is one sentence, and with more room it goes on', {
  skip: !canMount() && 'it may not mount a disk',
}, async () => {
  for (const [format, blocks] of [
    ['npy', 12],
    ['llamagen', 300],
  ] as const) {
    const cwd = await place(`full-${format}`)
    const [disk, kept] = [join(cwd, 'out'), join(cwd, 'kept')]
    await mkdir(disk)
    // The disk is the mount's own, so what is on it is copied out before the mount ends.
    const inside = (script: string, size: number) => [
      ...['unshare', '--mount', 'sh', '-c'],
      `mount -t tmpfs -o size=${size}k none out && { [ ! -d kept ] || cp -a kept/. out/; } && ${script}`,
      'sh',
    ]
    const run = '"$@"; status=$?; rm -rf kept; cp -a out kept; exit $status'
    const full = await tokenize(args(format), { cwd, under: inside(run, blocks * 4) })
    assert.equal(full.status, 1, full.stderr)
    assert.match(full.stderr, /^nativetok tokenize: there is no room left to write \(ENOSPC\); .* goes on from here$/m)
    assert.ok(existsSync(join(kept, '.tokenize/journal.json')))
    const more = await tokenize(args(format), { cwd, under: inside(run, 100_000) })
    assert.equal(more.status, 3, more.stderr)
    assert.deepEqual(await digests(kept), await digests(join(folder, `${format}-whole/out`)))
  }
})

test('a limit on the size of files is one sentence, and without it it goes on', async () => {
  const cwd = await place('limited')
  const under = ['sh', '-c', 'trap "" XFSZ; ulimit -f 40; exec "$@"', 'sh']
  const limited = await tokenize(args('npy'), { cwd, under })
  assert.equal(limited.status, 1, limited.stderr)
  assert.match(limited.stderr, /no room left to write \(EFBIG\)/)
  assert.equal((await tokenize(args('npy'), { cwd })).status, 3)
  assert.deepEqual(await digests(join(cwd, 'out')), await digests(join(folder, 'npy-whole/out')))
})
