import { randomUUID } from 'node:crypto'
import { link, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'

/** The process that holds a lock. */
interface Holder {
  host: string
  pid: number
  /** When it started, in the kernel's count, so that a later process with its id is not taken for it. */
  started: string | undefined
}

/** A holder on another machine says that it is there by touching the file. */
const TOUCH_MS = 10_000
const STALE_MS = 60_000
/** Another process may take over the same stale lock at the same time. */
const TRIES = 5

/** Keeps a second run away from an output folder. A lock whose process is gone is taken over at once. */
export class Lock {
  readonly #path: string
  readonly #touch: NodeJS.Timeout

  /** @throws Error naming the process that holds the lock */
  static async take(path: string): Promise<Lock> {
    const own: Holder = { host: hostname(), pid: process.pid, started: await startOf(process.pid) }
    const temporary = `${path}.${randomUUID()}`
    await writeFile(temporary, JSON.stringify(own))
    try {
      for (let tries = 0; tries < TRIES; tries++) {
        if (await linked(temporary, path)) return new Lock(path)
        await removeStale(path, temporary)
      }
      throw new Error(`${path} is being taken by other runs`)
    } finally {
      await rm(temporary, { force: true })
    }
  }

  private constructor(path: string) {
    this.#path = path
    this.#touch = setInterval(() => {
      const now = new Date()
      // The file is gone once the run has finished.
      utimes(path, now, now).catch(() => {})
    }, TOUCH_MS).unref()
  }

  async release(): Promise<void> {
    clearInterval(this.#touch)
    await rm(this.#path, { force: true })
  }
}

/** Whether the lock could be created. */
async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** @throws Error if the lock's holder is alive */
async function removeStale(path: string, temporary: string): Promise<void> {
  const text = await readFile(path, 'utf8').catch(() => undefined)
  if (text === undefined) return
  const holder = holderIn(text)
  if (holder !== undefined) {
    const { host, pid, started } = holder
    if (host === hostname() ? await isAlive(pid, started) : await isTouched(path, temporary)) {
      throw new Error(`another run is writing there: process ${pid} on ${host}`)
    }
  }
  const aside = `${temporary}.stale`
  await rename(path, aside).catch(() => {})
  const moved = await readFile(aside, 'utf8').catch(() => undefined)
  // Another process was faster, and this is its new lock.
  if (moved !== undefined && moved !== text) await link(aside, path).catch(() => {})
  await rm(aside, { force: true })
}

/** Who holds a lock; undefined if the file does not say, as after a loss of power: locks are linked once they are written. */
function holderIn(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Partial<Holder> | null
    return typeof holder?.host === 'string' && typeof holder.pid === 'number' ? (holder as Holder) : undefined
  } catch {
    return undefined
  }
}

async function isAlive(pid: number, started: string | undefined): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  return (await startOf(pid)) === started
}

/** Whether a file was touched lately, by the clock of the file system that both files are on. */
async function isTouched(path: string, now: string): Promise<boolean> {
  await writeFile(now, await readFile(now))
  const [touched, present] = await Promise.all([stat(path).catch(() => undefined), stat(now)])
  return touched !== undefined && present.mtimeMs - touched.mtimeMs < STALE_MS
}

/** When a process started, where the system says so. */
async function startOf(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The second field is the program's name in parentheses, which may hold anything.
  return text?.slice(text.lastIndexOf(')') + 2).split(' ')[19]
}
