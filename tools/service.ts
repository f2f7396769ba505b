import { join } from 'node:path'
import { freePort } from './free-port.ts'
import { treeOf } from './process-tree.ts'
import { Server } from './server.ts'

const HEALTH_DEADLINE_MS = 5000
/** This checkout. */
export const root = join(import.meta.dirname, '..')

export interface ServiceOptions {
  /** Flags of the service, as on its command line. */
  flags?: readonly string[]
  env?: NodeJS.ProcessEnv
  /** What to start it under, such as `['prlimit', '--nofile=64']`. */
  under?: readonly string[]
  /** The checkout to start; else this one. */
  checkout?: string
  /** Where to listen; else on a free port. */
  port?: number
  /** Starts the server without the start script, and so without its allocator. */
  plain?: boolean
}

/** The command that starts the service of a checkout as `npm start` does: with its own Node in front. */
export function serviceCommand(
  port: number,
  flags: readonly string[] = [],
  checkout = root,
  program = [join(checkout, 'start.sh')],
): string[] {
  const path = `PATH=${join(checkout, 'node_modules', '.bin')}:${process.env.PATH}`
  return ['env', path, ...program, '--port', `${port}`, '--provider', 'cpu', ...flags]
}

/** The service in a process of its own, as `npm start` runs it. */
export class Service extends Server {
  readonly #lines: Record<string, unknown>[] = []
  #read = 0

  /** @throws Error with the end of what it wrote, when it ends or is not ready in time */
  static override async start(options: ServiceOptions = {}): Promise<Service> {
    const service = new Service(options, options.port ?? (await freePort()))
    await service.waitForStart()
    return service
  }

  private constructor({ flags, env = {}, under = [], checkout = root, plain }: ServiceOptions, port: number) {
    super({
      command: [...under, ...serviceCommand(port, flags, checkout, plain ? ['node', 'src/server.ts'] : undefined)],
      url: `http://127.0.0.1:${port}`,
      env,
      cwd: checkout,
      started: isReady,
    })
  }

  /** Everything it has logged. */
  get lines(): readonly Record<string, unknown>[] {
    const bytes = this.stdout(this.#read)
    const whole = bytes.subarray(0, bytes.lastIndexOf('\n') + 1)
    this.#read += whole.length
    for (const line of whole.toString().split('\n')) if (line !== '') this.#lines.push(JSON.parse(line))
    return this.#lines
  }

  /** Whether it says that it is ready. */
  ready(): Promise<boolean> {
    return isReady(this.url)
  }

  /** How often it has logged this message. */
  said(message: string): number {
    return this.lines.filter(({ msg }) => msg === message).length
  }

  /** Process ids of its engines. */
  async engines(): Promise<number[]> {
    return (await treeOf(this.pid)).filter((pid) => pid !== this.pid)
  }

  /** A metric's value, summed over all its labels that match. */
  async metric(name: string, labels: Record<string, string> = {}): Promise<number> {
    const text = await fetch(`${this.url}/metrics`).then((answer) => answer.text())
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
    return text
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      .filter((line) => wanted.every((label) => line.includes(label)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }
}

/** Whether a service at this address says that it is ready. */
export function isReady(url: string): Promise<boolean> {
  return fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(HEALTH_DEADLINE_MS) }).then(
    ({ ok }) => ok,
    () => false,
  )
}
