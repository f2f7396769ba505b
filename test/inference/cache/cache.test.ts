import assert from 'node:assert/strict'
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { readBundle } from '../../../src/inference/bundle.ts'
import { cachedGraphs, cacheFolder } from '../../../src/inference/cache/cache.ts'
import { readEntry } from '../../../src/inference/cache/entry.ts'
import { sha256 } from '../../../src/inference/sha256.ts'
import { memoryOf } from '../../../src/inference/sizing.ts'
import { BUNDLE, tinyBundle } from '../../helpers/bundle.ts'
import { photos, startInference } from '../support.ts'

const SMALL = fileURLToPath(new URL('../../fixtures/bundles/nativetok-a', import.meta.url))

async function emptyFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'cache-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

interface Started {
  tokens: Uint16Array[]
  /** Of each picture; a comparison of pixels that differ would take minutes to print. */
  pixels: string[]
  /** What the service logged: message and reason. */
  said: string[]
}

/** Starts the service, encodes one photo alone and `count` together, decodes all the tokens, and ends it. */
async function runService(model: string, cache: string | undefined, count = 3): Promise<Started> {
  const said: string[] = []
  const keep = (fields: object, message: string) => {
    said.push('reason' in fields ? `${message}: ${fields.reason}` : 'line' in fields ? `${fields.line}` : message)
  }
  const { inference } = await startInference({ model, cache, log: { info: keep, warn: keep, error: keep } })
  const size = inference.info.imageSize
  const images = (await photos(count)).map((pixels) => pixels.subarray(0, size * size * 3))
  const lengths = inference.info.kind === 'causal' ? [1, inference.info.length] : [inference.info.length]
  const encode = (image: Uint8Array) => Promise.all(lengths.map((length) => inference.encode(image, length)))
  const alone = await encode(images[0] as Uint8Array)
  const together = (await Promise.all(images.map(encode))).flat()
  const tokens = [...alone, ...together].map((one) => one.tokens)
  const whole = tokens.filter(({ length }) => length === inference.info.length)
  const pixels = await Promise.all(whole.map((one) => inference.decode(one)))
  await inference.close()
  return { tokens, pixels: pixels.map((one) => sha256(one.pixels)), said }
}

/** What the cache has of graphs. */
async function entriesIn(cache: string): Promise<string[]> {
  const folder = join(cache, 'graphs')
  return (await readdir(folder)).map((name) => join(folder, name)).sort()
}

const about = (said: string[], what: RegExp) => said.filter((line) => what.test(line))
const NEW = /^optimised graphs cached$/
const NONE = /^no cached graphs/

test('tokens and pixels are the same with the cache, alone and in the largest batch, and engines map its weights', async (t) => {
  const cache = await emptyFolder(t)
  const without = await runService(BUNDLE, undefined, 33)
  const first = await runService(BUNDLE, cache, 33)
  assert.equal(about(first.said, NEW).length, 1)
  const [entry, ...others] = await entriesIn(cache)
  assert.ok(entry !== undefined && others.length === 0)
  const { mtimeMs: written } = await stat(join(entry, 'entry.json'))
  const second = await runService(BUNDLE, cache, 33)
  assert.deepEqual(about(second.said, /cache/), [])
  assert.equal((await stat(join(entry, 'entry.json'))).mtimeMs, written)
  for (const { tokens, pixels } of [first, second]) {
    assert.deepEqual(tokens, without.tokens)
    assert.deepEqual(pixels, without.pixels)
  }

  const { inference, observed } = await startInference({ cache })
  t.after(() => inference.close())
  const maps = await readFile(`/proc/${observed.pids[0]}/maps`, 'utf8').catch(() => '')
  for (const graph of ['encoder', 'mocet-1', 'mocet-3', 'decoder']) {
    assert.ok(process.platform !== 'linux' || maps.includes(join(entry, `${graph}.weights`)), graph)
  }
})

/** What may have happened to an entry since it was written. */
const damages: Record<string, (entry: string) => Promise<void>> = {
  'with another byte': async (entry) => {
    const file = join(entry, 'decoder.weights')
    const bytes = await readFile(file)
    bytes[1000] = (bytes[1000] ?? 0) ^ 1
    await writeFile(file, bytes)
  },
  'cut off': (entry) => truncate(join(entry, 'encoder.weights'), 100),
  'without a graph': (entry) => rm(join(entry, 'mocet-1.onnx')),
  'without its list': (entry) => rm(join(entry, 'entry.json')),
  'with half a list': (entry) => truncate(join(entry, 'entry.json'), 40),
  'with an empty list': (entry) => writeFile(join(entry, 'entry.json'), '{"files":{}}'),
  'with a list of something else': (entry) => writeFile(join(entry, 'entry.json'), '7'),
  'that others may write to': (entry) => chmod(entry, 0o777),
  'that is of another bundle': async (entry) => {
    const list = await readFile(join(entry, 'entry.json'), 'utf8')
    await writeFile(join(entry, 'entry.json'), list.replace(basename(entry), 'other-0123456789abcdef'))
  },
  'that is a file': async (entry) => {
    await rm(entry, { recursive: true })
    await writeFile(entry, '')
  },
}

test('an entry that is broken is written anew, and the service works', async (t) => {
  const cache = await emptyFolder(t)
  const { tokens, pixels } = await runService(SMALL, undefined)
  await runService(SMALL, cache)
  const entries = await entriesIn(cache)
  const { graphs } = await readBundle(SMALL)
  for (const [name, damage] of Object.entries(damages)) {
    await t.test(name, async () => {
      await damage(entries[0] as string)
      const after = await runService(SMALL, cache)
      assert.deepEqual([after.tokens, after.pixels], [tokens, pixels])
      assert.equal(about(after.said, NEW).length, 1, `${after.said}`)
      assert.deepEqual(await entriesIn(cache), entries)
      await readEntry(entries[0] as string, graphs)
    })
  }
})

test('without a folder to write to the service works, and says so once', async (t) => {
  const folder = await emptyFolder(t)
  const { tokens, pixels } = await runService(SMALL, undefined)
  await writeFile(join(folder, 'file'), '')
  await mkdir(join(folder, 'locked'), { mode: 0o500 })
  const places = [join(folder, 'file'), join(folder, 'file', 'below'), '/proc/nowhere']
  // Nothing is locked for root.
  if (process.getuid?.() !== 0) places.push(join(folder, 'locked'))
  for (const place of places) {
    const started = await runService(SMALL, place)
    assert.deepEqual([started.tokens, started.pixels], [tokens, pixels])
    assert.equal(about(started.said, NONE).length, 1, `${place}: ${started.said}`)
  }
})

test("another user's entry is not used", { skip: process.getuid?.() !== 0 && 'needs root' }, async (t) => {
  const cache = await emptyFolder(t)
  const { tokens } = await runService(SMALL, cache)
  const [entry = ''] = await entriesIn(cache)
  await chown(entry, 12345, 12345)
  const started = await runService(SMALL, cache)
  assert.deepEqual(started.tokens, tokens)
  assert.deepEqual(about(started.said, /belongs to another user/).length, 1)
})

test('services that start at once make one entry', async (t) => {
  const cache = await emptyFolder(t)
  const started = await Promise.all([1, 2, 3].map(() => runService(SMALL, cache)))
  for (const one of started) {
    assert.deepEqual([one.tokens, one.pixels], [started[0]?.tokens, started[0]?.pixels])
    assert.deepEqual(about(one.said, NONE), [])
  }
  assert.equal((await entriesIn(cache)).length, 1)
})

test('bundles have entries of their own, and those that nobody uses are removed', async (t) => {
  const cache = await emptyFolder(t)
  const old = (days: number) => new Date(Date.now() - days * 24 * 3600 * 1000)
  await runService(SMALL, cache)
  const [first = ''] = await entriesIn(cache)
  const kept = [join(cache, 'photos-0123456789abcdef'), join(cache, 'graphs', 'photos')]
  const gone = ['unfinished-abc', 'unfinished-abc-old'].map((name) => join(cache, 'graphs', name))
  for (const path of [...kept, ...gone]) {
    await mkdir(path)
    await utimes(path, old(100), old(100))
  }
  await utimes(first, old(29), old(29))
  await runService(tinyBundle('state'), cache)
  const [second = ''] = (await entriesIn(cache)).filter((entry) => entry !== first && !kept.includes(entry))
  assert.deepEqual(await entriesIn(cache), [first, kept[1], second].sort())
  assert.ok((await stat(kept[0] as string)).isDirectory())

  await utimes(first, old(31), old(31))
  // A start that finds its entry removes the others as well.
  await runService(tinyBundle('state'), cache)
  assert.deepEqual(await entriesIn(cache), [kept[1], second].sort())
})

test('weights that engines map from the bundle are not copied', async (t) => {
  const cache = join(await emptyFolder(t), 'cache')
  const { said } = await runService(tinyBundle('parallel'), cache)
  assert.deepEqual(about(said, /cache/), [])
  await assert.rejects(stat(cache), { code: 'ENOENT' })
})

test('an engine that is replaced after its entry is gone or changed loads the bundle', async (t) => {
  const cache = await emptyFolder(t)
  const lines: string[] = []
  const pids: number[] = []
  const log = {
    info: (fields: object) => {
      if ('line' in fields) lines.push(String(fields.line))
      if ('enginePid' in fields) pids.push(Number(fields.enginePid))
    },
    warn: () => {},
    error: () => {},
  }
  const { inference } = await startInference({ model: SMALL, cache, log })
  t.after(() => inference.close())
  const size = inference.info.imageSize
  const image = ((await photos(1))[0] as Uint8Array).subarray(0, size * size * 3)
  const before = await inference.encode(image, inference.info.length)
  const [entry = ''] = await entriesIn(cache)
  await truncate(join(entry, 'encoder.weights'), 64)
  await rm(join(entry, 'decoder.onnx'))
  process.kill(pids[0] as number, 'SIGKILL')
  const after = await inference.encode(image, inference.info.length)
  assert.deepEqual(after.tokens, before.tokens)
  assert.ok((await inference.decode(after.tokens)).pixels.length > 0)
  assert.match(lines.join('\n'), /cached copy of encoder.onnx does not load, so the bundle's is used: .*changed/)
  assert.match(lines.join('\n'), /cached copy of decoder.onnx does not load/)
})

test('a cached graph that crashes engines is given up', async (t) => {
  const cache = await emptyFolder(t)
  const { tokens } = await runService(SMALL, undefined)
  const script = join(await emptyFolder(t), 'child.mjs')
  const child = new URL('../../../src/inference/engine/child.ts', import.meta.url)
  await writeFile(
    script,
    `process.prependListener('message', (request) => {
       if (request.config?.graphs.some(({ optimised }) => optimised)) process.kill(process.pid, 'SIGSEGV')
     })
     await import(${JSON.stringify(child.href)})`,
  )
  const warned: string[] = []
  const log = { info: () => {}, warn: (_: object, message: string) => warned.push(message), error: () => {} }
  const { inference } = await startInference({ model: SMALL, cache, log }, pathToFileURL(script))
  t.after(() => inference.close())
  const size = inference.info.imageSize
  const image = ((await photos(1))[0] as Uint8Array).subarray(0, size * size * 3)
  assert.deepEqual((await inference.encode(image, inference.info.length)).tokens, tokens[1])
  assert.match(warned.join('\n'), /do not start with cached graphs/)
})

test('a bundle whose cache would take more memory than there is has none', async (t) => {
  const cache = await emptyFolder(t)
  const { graphs, ...bundle } = await readBundle(SMALL)
  const huge = graphs.map((graph) => ({ ...graph, bytes: 1e12 }))
  const warned: object[] = []
  const log = { info: () => {}, warn: (fields: object) => warned.push(fields) }
  assert.equal(await cachedGraphs({ ...bundle, graphs: huge }, cache, log), huge)
  assert.match(JSON.stringify(warned), /GiB of memory/)
})

test('the folder is the one that was set, or lies in a cache folder whose path is absolute', () => {
  const env = { HOME: homedir() }
  assert.equal(cacheFolder('none', env), undefined)
  assert.equal(cacheFolder('some/where', env), 'some/where')
  assert.equal(cacheFolder(undefined, { ...env, XDG_CACHE_HOME: '/var/tmp/x' }), '/var/tmp/x/nativetok')
  for (const base of ['', 'relative']) {
    assert.equal(cacheFolder(undefined, { ...env, XDG_CACHE_HOME: base }), join(homedir(), '.cache/nativetok'))
  }
})

test('weights in the cache count once, not in every engine', () => {
  const inside = { bytes: 60e6, inputs: [], weights: [] }
  const weights = [{ file: 'w', path: 'w', bytes: 100e6, sha256: '', identity: '' }]
  const optimised = { file: 'g', path: 'g', bytes: 1e6, sha256: '', weights }
  const [own, cached] = [inside, { ...inside, optimised }].map((graph) =>
    memoryOf({ graphs: [graph], imageSize: 128 }, 1),
  )
  assert.equal(own?.shared, 0)
  assert.equal(cached?.shared, 100e6)
  assert.equal((own?.each ?? 0) - (cached?.each ?? 0), 180e6)
})
