import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { memoryMiB, treeOf } from '../bench/process-tree.ts'

const START_DEADLINE_MS = 60_000
/** More than the drain delay and the deadline of a request together. */
const STOP_DEADLINE_MS = 60_000
const HEALTH_DEADLINE_MS = 5000

export interface ServiceOptions {
  /** Flags of the service, as on its command line. */
  flags?: string[]
  env?: NodeJS.ProcessEnv
  /** What to start it under, such as `['prlimit', '--nofile=64']`. */
  under?: string[]
  /** Where to listen, where that has to be known beforehand or the log cannot be read; else a free port. */
  port?: number
}

/** A port that nothing listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Seconds until something is so; infinite when it is not within `limit` of them. */
export async function secondsUntil(condition: () => boolean | Promise<boolean>, limit: number): Promise<number> {
  const start = performance.now()
  for (;;) {
    const so = await condition()
    const seconds = (performance.now() - start) / 1000
    if (so) return seconds
    if (seconds > limit) return Number.POSITIVE_INFINITY
    await sleep(20)
  }
}

/** Waits until something is so. @throws Error where it is not within so many seconds */
export async function until(condition: () => boolean | Promise<boolean>, seconds: number): Promise<void> {
  if ((await secondsUntil(condition, seconds)) > seconds) throw new Error(`not so after ${seconds} s: ${condition}`)
}

/** The service in a process of its own, as `npm start` runs it, on a free port. */
export class Service {
  /** Everything it has logged. */
  readonly lines: Record<string, unknown>[] = []
  /** What it wrote to standard error. */
  stderr = ''
  /** Where it listens. */
  url = ''
  readonly #process: ChildProcess

  /** @throws Error with what it wrote, when it ends or is not ready in time */
  static async start(options: ServiceOptions = {}): Promise<Service> {
    const service = new Service(options)
    const deadline = performance.now() + START_DEADLINE_MS
    while (!(await service.ready())) {
      if (service.ended) throw new Error(`the service ended with ${service.exit}: ${service.stderr}`)
      if (performance.now() > deadline) {
        await service.kill()
        throw new Error(`the service was not ready within ${START_DEADLINE_MS / 1000} s: ${service.stderr}`)
      }
      await sleep(20)
    }
    return service
  }

  private constructor({ flags = [], env = {}, under = [], port = 0 }: ServiceOptions) {
    if (port !== 0) this.url = `http://127.0.0.1:${port}`
    const script = join(import.meta.dirname, '..', 'start.sh')
    const command = [...under, script, '--port', `${port}`, '--provider', 'cpu', ...flags]
    const [file, ...args] = command as [string, ...string[]]
    this.#process = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    })
    this.#process.stderr?.on('data', (text: Buffer) => {
      this.stderr += text
    })
    if (this.#process.stdout) createInterface(this.#process.stdout).on('line', (line) => this.#read(line))
  }

  #read(line: string): void {
    const entry = JSON.parse(line) as Record<string, unknown>
    this.lines.push(entry)
    const [, address] = /^listening on (\S+)$/.exec(String(entry.msg)) ?? []
    if (address !== undefined) this.url = address
  }

  get pid(): number {
    return this.#process.pid as number
  }

  get ended(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null
  }

  /** Exit code or signal, once it has ended. */
  get exit(): number | string | null {
    return this.#process.exitCode ?? this.#process.signalCode
  }

  /** Whether it says that it is ready. */
  async ready(): Promise<boolean> {
    if (this.url === '') return false
    return fetch(`${this.url}/health/ready`, { signal: AbortSignal.timeout(HEALTH_DEADLINE_MS) }).then(
      ({ ok }) => ok,
      () => false,
    )
  }

  /** How often it has logged this. */
  said(message: string): number {
    return this.lines.filter(({ msg }) => msg === message).length
  }

  /** Files, pipes and connections that the HTTP process has open. */
  async descriptors(): Promise<number> {
    return (await readdir(`/proc/${this.pid}/fd`)).length
  }

  /** Process ids of the engines there are now. */
  async engines(): Promise<number[]> {
    return (await treeOf(this.pid)).filter((pid) => pid !== this.pid)
  }

  /** Memory of the service and its engines. */
  memoryMiB(): Promise<number> {
    return memoryMiB(this.pid)
  }

  /** A metric's value, summed over its labels that match. */
  async metric(name: string, labels: Record<string, string> = {}): Promise<number> {
    const text = await fetch(`${this.url}/metrics`).then((answer) => answer.text())
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
    return text
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      .filter((line) => wanted.every((label) => line.includes(label)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }

  signal(name: NodeJS.Signals): void {
    this.#process.kill(name)
  }

  /** Ends it as an orchestrator does: asks it to, waits until it is gone, and kills it when that takes too long. */
  async stop(): Promise<void> {
    if (this.ended) return
    const exit = once(this.#process, 'exit')
    this.#process.kill('SIGTERM')
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), STOP_DEADLINE_MS)
    await exit
    clearTimeout(timer)
  }

  /** Ends it and its engines at once. */
  async kill(): Promise<void> {
    if (this.ended) return
    const exit = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await exit
  }
}
