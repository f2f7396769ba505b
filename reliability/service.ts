import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { memoryMiB, treeOf } from '../bench/process-tree.ts'

const START_DEADLINE_MS = 60_000

export interface ServiceOptions {
  /** Flags of the service, as on its command line. */
  flags?: string[]
  env?: NodeJS.ProcessEnv
  /** What to start it under, such as `['prlimit', '--nofile=64']`. */
  under?: string[]
}

/** The service in a process of its own, as a user runs it, on a free port. */
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
    while (service.url === '') {
      if (service.ended) throw new Error(`the service ended with ${service.exit}: ${service.stderr}`)
      if (performance.now() > deadline) {
        await service.kill()
        throw new Error(`the service was not ready within ${START_DEADLINE_MS / 1000} s: ${service.stderr}`)
      }
      await sleep(20)
    }
    return service
  }

  private constructor({ flags = [], env = {}, under = [] }: ServiceOptions) {
    const script = join(import.meta.dirname, '..', 'src', 'server.ts')
    const command = [...under, process.execPath, script, '--port', '0', '--provider', 'cpu', ...flags]
    const [file, ...args] = command as [string, ...string[]]
    this.#process = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } })
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

  /** Ends it as an orchestrator does and waits until it is gone. */
  async stop(): Promise<void> {
    if (this.ended) return
    const exit = once(this.#process, 'exit')
    this.#process.kill('SIGTERM')
    await exit
  }

  /** Ends it and its engines at once. */
  async kill(): Promise<void> {
    if (this.ended) return
    const exit = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await exit
  }
}
