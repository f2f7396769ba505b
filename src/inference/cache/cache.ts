import { fork } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { cpus, homedir } from 'node:os'
import { basename, dirname, isAbsolute, join } from 'node:path'
import type { Bundle } from '../bundle.ts'
import { readMs } from '../engine/engine.ts'
import { messageOf } from '../errors.ts'
import { copiesWeights, type Graph } from '../graphs.ts'
import { sha256 } from '../sha256.ts'
import { memoryOf, planBatches, usableMachine } from '../sizing.ts'
import { readEntry } from './entry.ts'
import type { WriterOrder, WriterReply } from './writer.ts'

/** Changes with what an entry holds. */
const FORMAT = 1
const WRITER = new URL('./writer.ts', import.meta.url)
/** Time to write an entry, in milliseconds, not counting the time to read the bundle from a slow disk. */
const WRITER_DEADLINE_MS = 120_000
const DAY_MS = 24 * 3600 * 1000
/** Private memory of the writer, with the server's, in engines that load the bundle's own files. Measured: 1.1 and 0.3. */
const WRITER_ENGINES = 1.5
/** Entries that no service has used for so long are removed, and folders that a writer left behind. */
const UNUSED_MS = { entry: 30 * DAY_MS, unfinished: DAY_MS }
const UNFINISHED = 'unfinished-'
/** Beside it start scripts keep compiled code. */
const ENTRIES = 'graphs'

/** Receives what happened to the cache. */
export interface CacheLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
}

/**
 * The cache's folder, which `bin/environment` finds by the same rules.
 * @param setting a folder or `none`; by default `nativetok` in `XDG_CACHE_HOME` or in `~/.cache`.
 * @returns undefined for `none`, and where there is no home.
 */
export function cacheFolder(setting: string | undefined, env: NodeJS.ProcessEnv): string | undefined {
  if (setting !== undefined) return setting === 'none' ? undefined : setting
  const base = isAbsolute(env.XDG_CACHE_HOME ?? '') ? env.XDG_CACHE_HOME : join(homeOf(), '.cache')
  return base !== undefined && isAbsolute(base) ? join(base, 'nativetok') : undefined
}

function homeOf(): string {
  try {
    return homedir()
  } catch {
    // This user has none.
    return ''
  }
}

/**
 * A bundle's graphs as ONNX Runtime optimised them for this machine's processor, for engines on the CPU: they load in a
 * fraction of the time, and engines share their weights. The first service to start with a bundle writes them.
 * @param folder of the cache, if there is to be one; made if it is missing. It may be shared and may be deleted at any time.
 * @returns the graphs, with `optimised` where the cache has them. Whatever is wrong with the cache is logged, once, and
 * the graphs are the bundle's own.
 */
export async function cachedGraphs(bundle: Bundle, folder: string | undefined, log: CacheLog): Promise<Graph[]> {
  const { graphs } = bundle
  if (folder === undefined || !graphs.some(copiesWeights)) return graphs
  const entries = join(folder, ENTRIES)
  try {
    const entry = join(entries, await entryName(bundle))
    const found = await readEntry(entry, graphs).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') log.info({ entry, reason: messageOf(error) }, 'cached graphs cannot be used')
    })
    return found ?? (await makeEntry(bundle, entries, entry, log))
  } catch (error) {
    log.warn({ cache: folder, reason: messageOf(error) }, 'no cached graphs: engines load slowly and share no weights')
    return graphs
  } finally {
    await removeUnused(entries)
  }
}

/** A name for everything that decides what the optimised graphs of a bundle are. */
async function entryName({ manifest, bundleDigest }: Bundle): Promise<string> {
  const runtime = JSON.parse(
    await readFile(new URL('../package.json', import.meta.resolve('onnxruntime-node')), 'utf8'),
  ) as { version: string }
  const info = await readFile('/proc/cpuinfo', 'utf8').catch(() => '')
  const features = /^(?:flags|Features)\s*:.*$/m.exec(info)?.[0]
  const parts = [FORMAT, bundleDigest, runtime.version, process.platform, process.arch, cpus()[0]?.model, features]
  return `${manifest.name.replaceAll(/[^\w.-]+/g, '_')}-${sha256(Buffer.from(JSON.stringify(parts))).slice(0, 16)}`
}

async function makeEntry(bundle: Bundle, folder: string, entry: string, log: CacheLog): Promise<Graph[]> {
  const { graphs } = bundle
  const started = performance.now()
  await checkMemory(bundle)
  await makeFolder(folder)
  const made = await mkdtemp(join(folder, UNFINISHED))
  try {
    await write(bundle, made, basename(entry))
    try {
      await rename(made, entry)
    } catch {
      // Something is in its place: an entry that a service made meanwhile, or a broken one.
      const other = await readEntry(entry, graphs).catch(() => undefined)
      if (other) return other
      await replace(entry, made)
    }
    const found = await readEntry(entry, graphs)
    log.info({ entry, ms: Math.round(performance.now() - started) }, 'optimised graphs cached')
    return found
  } finally {
    await rm(made, { recursive: true, force: true })
  }
}

/**
 * Makes a folder for this user alone, and those that lead to it. Node's own `recursive` never comes back from places such
 * as /proc, where a folder cannot be made although the one above it exists.
 */
async function makeFolder(path: string, parents = true): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || !parents) throw error
    await makeFolder(dirname(path))
    await makeFolder(path, false)
  }
}

/** @throws Error if the writer might be killed for want of memory, and in a container the service with it. */
async function checkMemory({ graphs, shape }: Bundle): Promise<void> {
  const { shared, each } = memoryOf({ graphs, imageSize: shape.imageSize }, 1)
  const [needed, { memory }] = [shared + WRITER_ENGINES * each, await usableMachine()]
  if (needed > memory)
    throw new Error(`to make them takes ${inGiB(needed)} GiB of memory, and there is ${inGiB(memory)}`)
}

function inGiB(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(1)
}

/** Puts a new entry in the place of a broken one. */
async function replace(entry: string, made: string): Promise<void> {
  const aside = `${made}-old`
  await rename(entry, aside).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  try {
    await rename(made, entry)
  } finally {
    await rm(aside, { recursive: true, force: true })
  }
}

/** Runs the writer. */
async function write({ graphs, shape }: Bundle, folder: string, name: string): Promise<void> {
  const order: WriterOrder = {
    config: {
      ...{ graphs, shape, provider: 'cpu', device: 0, threads: 1, tf32: false },
      batches: planBatches('cpu', undefined, { imageSize: shape.imageSize }),
    },
    ...{ folder, name },
  }
  const writer = fork(WRITER, {
    serialization: 'advanced',
    execArgv: [],
    env: { ...process.env, NATIVETOK_API_KEY: undefined },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const { promise, resolve } = Promise.withResolvers<WriterReply>()
  writer.once('message', (reply: WriterReply) => resolve(reply))
  writer.once('error', (error) => resolve({ problem: messageOf(error) }))
  writer.once('exit', (code, signal) => resolve({ problem: `its writer ended with ${signal ?? `exit code ${code}`}` }))
  const timer = setTimeout(() => writer.kill('SIGKILL'), WRITER_DEADLINE_MS + readMs({ graphs }))
  try {
    writer.send(order, () => {})
    const { problem } = await promise
    if (problem !== undefined) throw new Error(problem)
  } finally {
    clearTimeout(timer)
    writer.kill('SIGKILL')
  }
}

/** Removes what nobody uses. Other services may do so at the same time, so whatever fails does not matter. */
async function removeUnused(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    const kind = name.startsWith(UNFINISHED) ? 'unfinished' : /-[0-9a-f]{16}$/.test(name) ? 'entry' : undefined
    const path = join(folder, name)
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }))
    if (kind && Date.now() - mtimeMs > UNUSED_MS[kind]) await rm(path, { recursive: true, force: true }).catch(() => {})
  }
}
