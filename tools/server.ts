import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { memoryMiB, treeOf } from './process-tree.ts'

const START_SECONDS = 120
const STOP_SECONDS = 60
const ASK_EVERY_MS = 10

export interface ServerOptions {
  /** Program and arguments. */
  command: readonly string[]
  /** The URL it listens on. */
  url: string
  env?: NodeJS.ProcessEnv
  /** Working directory. */
  cwd?: string
  /** Whether it has started. */
  started(url: string): Promise<boolean>
  /** Seconds from SIGTERM until remaining processes are killed. */
  stopSeconds?: number
}

/** An HTTP server in its own process, with all its child processes. Linux only. */
export class Server {
  readonly url: string
  /** Seconds from starting the process until it had started, by its own {@link ServerOptions.started}. */
  startSeconds = Number.NaN
  readonly #child: ChildProcess
  readonly #folder: string
  readonly #started: () => Promise<boolean>
  readonly #stopSeconds: number
  #failure: string | undefined

  protected constructor({ command, url, env = {}, cwd, started, stopSeconds = STOP_SECONDS }: ServerOptions) {
    const [file, ...args] = command as [string, ...string[]]
    this.url = url
    this.#started = () => started(url)
    this.#stopSeconds = stopSeconds
    this.#folder = mkdtempSync(join(tmpdir(), 'server-'))
    // Into files: reading a pipe would take this process's time, and a pipe that nobody reads would stop the server.
    const files = ['stdout', 'stderr'].map((name) => openSync(join(this.#folder, name), 'a'))
    this.#child = spawn(file, args, {
      stdio: ['ignore', ...files],
      env: { ...process.env, ...env },
      ...(cwd !== undefined && { cwd }),
    })
    for (const descriptor of files) closeSync(descriptor)
    this.#child.once('error', (error) => {
      this.#failure = error.message
    })
    this.#child.once('exit', (code, signal) => {
      this.#failure ??= `ended with ${signal ?? `exit code ${code}`}`
    })
  }

  /** @throws Error with the end of what it wrote, when it ends or does not start in time */
  static async start(options: ServerOptions): Promise<Server> {
    const server = new Server(options)
    await server.waitForStart()
    return server
  }

  protected async waitForStart(): Promise<void> {
    const start = performance.now()
    try {
      while (!(await this.#started())) {
        if (performance.now() - start > START_SECONDS * 1000) this.#failure ??= `not started within ${START_SECONDS} s`
        if (this.#failure !== undefined) throw new Error(`${this.#failure}${this.#lastLines()}`)
        await sleep(ASK_EVERY_MS)
      }
      this.startSeconds = (performance.now() - start) / 1000
    } catch (error) {
      await this.stop()
      throw error
    }
  }

  /** What it has written to standard output, from a byte on. */
  stdout(from = 0): Buffer {
    const descriptor = openSync(join(this.#folder, 'stdout'), 'r')
    try {
      const bytes = Buffer.alloc(Math.max(0, fstatSync(descriptor).size - from))
      return bytes.subarray(0, readSync(descriptor, bytes, 0, bytes.length, from))
    } finally {
      closeSync(descriptor)
    }
  }

  /** What it has written to standard error. */
  get stderr(): string {
    return readFileSync(join(this.#folder, 'stderr'), 'utf8')
  }

  get pid(): number {
    return this.#child.pid as number
  }

  get ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** Exit code or signal, once it has ended. */
  get exit(): number | string | null {
    return this.#child.exitCode ?? this.#child.signalCode
  }

  /** Files, pipes and connections that the process itself has open. */
  async descriptors(): Promise<number> {
    return (await readdir(`/proc/${this.pid}/fd`)).length
  }

  /** Memory of the process and its descendants. */
  memoryMiB(): Promise<number> {
    return memoryMiB(this.pid)
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Ends it as an orchestrator does: asks it to, waits until it and its descendants are gone, kills what stays. */
  async stop(): Promise<void> {
    if (this.#child.pid !== undefined && !this.ended) {
      const tree = await treeOf(this.pid)
      const exit = once(this.#child, 'exit')
      this.#child.kill('SIGTERM')
      const deadline = performance.now() + this.#stopSeconds * 1000
      while (tree.some((pid) => send(pid, 0)) && performance.now() < deadline) await sleep(ASK_EVERY_MS)
      for (const pid of tree) send(pid, 'SIGKILL')
      await exit
    }
    rmSync(this.#folder, { recursive: true, force: true })
  }

  /** Ends the process itself at once. */
  async kill(): Promise<void> {
    if (!this.ended) {
      const exit = once(this.#child, 'exit')
      this.#child.kill('SIGKILL')
      await exit
    }
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #lastLines(): string {
    const lines = `${this.stdout()}\n${this.stderr}`.trim().split('\n').slice(-3)
    return lines.join('') === '' ? '' : `: ${lines.join(' | ')}`
  }
}

/** @returns whether there is such a process */
function send(pid: number, signal: 'SIGKILL' | 0): boolean {
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}
