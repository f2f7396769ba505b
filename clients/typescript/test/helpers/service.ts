import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const root = new URL('../../../../', import.meta.url)
const fixtures = new URL('test/fixtures/', root)

/** A service that starts soon. */
export const small = ['--engines', '1', '--threads', '1', '--max-batch', '8']

/** A fixture's bytes, by its path under `test/fixtures`. */
export function fixture(path: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(new URL(path, fixtures)))
}

/** Real photos of the model's size. */
export const photos = readdirSync(new URL('photos/', fixtures))
  .filter((name) => name.endsWith('.webp'))
  .sort()
  .map((name) => fixture(`photos/${name}`))

/** A process of the real service, started from this checkout. */
export class Service {
  readonly url: string
  readonly #process: ChildProcess

  private constructor(process: ChildProcess, url: string) {
    this.#process = process
    this.url = url
  }

  get port(): string {
    return new URL(this.url).port
  }

  static async start(flags: string[] = [], port = '0'): Promise<Service> {
    const settings = ['--port', port, '--provider', 'cpu', '--drain-delay', '0', ...flags]
    const child = spawn(process.execPath, ['src/server.ts', ...settings], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let url = ''
    for await (const line of createInterface({ input: child.stdout })) {
      const { msg } = JSON.parse(line) as { msg: string }
      if (msg.startsWith('listening on ')) url = msg.slice('listening on '.length)
      if (msg.startsWith('try: ')) break
    }
    child.stdout.resume()
    return new Service(child, url)
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    const exit = once(this.#process, 'exit')
    this.#process.kill(signal)
    await exit
  }

  /** The sum of a metric's values that have the label. */
  async metric(name: string, label = ''): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text()
    const lines = text.split('\n').filter((line) => line.startsWith(name) && line.includes(label))
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
  }
}

/** Waits until something is so. The test runner's timeout bounds it. */
export async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 50))
}

/** A repeatable choice of photos, by index. */
export function choose(count: number): number[] {
  let state = 1
  return Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647
    return state % photos.length
  })
}

/** Whatever number of the photos is chosen. */
export function chosen<T>(list: readonly T[], which: number[]): T[] {
  return which.map((i) => list[i] as T)
}
