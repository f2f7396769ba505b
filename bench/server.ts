import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Call, send } from './calls.ts'
import type { Contestant, Place } from './contestants.ts'
import { treeOf } from './process-tree.ts'

const START_DEADLINE_MS = 120_000
const END_DEADLINE_MS = 10_000
const ASK_EVERY_MS = 10

/** A contestant in a process of its own. */
export class Server {
  readonly url: string
  /** Seconds from starting the process to its first answer of status 200. */
  readonly coldStart: number
  readonly #process: ChildProcess

  private constructor(url: string, coldStart: number, process: ChildProcess) {
    this.url = url
    this.coldStart = coldStart
    this.#process = process
  }

  /**
   * @param first what it has to answer to be started
   * @throws Error with the end of what it wrote, when it ends or does not answer in time
   */
  static async start(contestant: Contestant, place: Omit<Place, 'port'>, first: Call): Promise<Server> {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const [file, ...args] = contestant.command({ ...place, port }) as [string, ...string[]]
    // Into a file: reading a pipe would take this process's time, and a pipe nobody reads would stop the contestant.
    const folder = await mkdtemp(join(tmpdir(), 'bench-log-'))
    const log = await open(join(folder, 'log'), 'w')
    const start = performance.now()
    const child = spawn(file, args, { stdio: ['ignore', log.fd, log.fd] })
    let failure: string | undefined
    child.once('error', (error) => {
      failure = error.message
    })
    child.once('exit', (code, signal) => {
      failure ??= `ended with ${signal ?? `exit code ${code}`}`
    })
    try {
      while (!(await answers(url, first))) {
        if (performance.now() - start > START_DEADLINE_MS) failure ??= `no answer in ${START_DEADLINE_MS / 1000} s`
        if (failure !== undefined) throw new Error(`${failure}${await endOf(join(folder, 'log'))}`)
        await sleep(ASK_EVERY_MS)
      }
      return new Server(url, (performance.now() - start) / 1000, child)
    } catch (error) {
      await end(child)
      throw error
    } finally {
      await log.close()
      await rm(folder, { recursive: true })
    }
  }

  get pid(): number {
    return this.#process.pid as number
  }

  /** Ends the process and whatever it has started; resolves when all of it is gone. */
  async stop(): Promise<void> {
    await end(this.#process)
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const tree = await treeOf(child.pid)
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  const deadline = performance.now() + END_DEADLINE_MS
  while (tree.some(isAlive) && performance.now() < deadline) await sleep(ASK_EVERY_MS)
  for (const pid of tree) signal(pid, 'SIGKILL')
  await exit
}

const isAlive = (pid: number) => signal(pid, 0)

/** @returns whether there was such a process */
function signal(pid: number, name: 'SIGKILL' | 0): boolean {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

async function answers(url: string, call: Call): Promise<boolean> {
  return send(url, call).then(
    ({ status }) => status === 200,
    () => false,
  )
}

async function endOf(file: string): Promise<string> {
  const lines = (await readFile(file, 'utf8')).trim().split('\n').slice(-3)
  return lines.join('') === '' ? '' : `: ${lines.join(' | ')}`
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
