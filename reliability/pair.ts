import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { freePort } from '../tools/free-port.ts'
import { Server } from '../tools/server.ts'
import { isReady, Service } from '../tools/service.ts'

const CONFIGURATION = join(import.meta.dirname, '..', 'deploy', 'haproxy.cfg')

/** Two instances behind HAProxy with `deploy/haproxy.cfg`, as two pods are behind a Service. */
export class Pair {
  /** HAProxy's address. */
  readonly url: string
  readonly #proxy: Server
  readonly #ports: readonly number[]
  readonly #instances: Service[]

  private constructor(url: string, proxy: Server, ports: readonly number[], instances: Service[]) {
    this.url = url
    this.#proxy = proxy
    this.#ports = ports
    this.#instances = instances
  }

  /** Whether there is an HAProxy to put before them. */
  static get possible(): boolean {
    return spawnSync('haproxy', ['-v']).status === 0
  }

  /** @throws Error with the end of what they wrote, when an instance or HAProxy does not start */
  static async start(): Promise<Pair> {
    const [listen, ...ports] = [await freePort(), await freePort(), await freePort()] as const
    const instances: Service[] = []
    try {
      for (const port of ports) instances.push(await Service.start({ port }))
      const [first, second] = ports.map((port) => `127.0.0.1:${port}`)
      const url = `http://127.0.0.1:${listen}`
      const proxy = await Server.start({
        command: ['haproxy', '-f', CONFIGURATION],
        env: { NATIVETOK_LISTEN: `127.0.0.1:${listen}`, NATIVETOK_1: first, NATIVETOK_2: second },
        url,
        started: isReady,
      })
      return new Pair(url, proxy, ports, instances)
    } catch (error) {
      await Promise.all(instances.map((instance) => instance.stop()))
      throw error
    }
  }

  /** Sends SIGTERM to an instance and waits for its end. */
  async end(which: 0 | 1): Promise<{ exit: number | string | null; seconds: number }> {
    const start = performance.now()
    const instance = this.#instances[which] as Service
    await instance.stop()
    return { exit: instance.exit, seconds: (performance.now() - start) / 1000 }
  }

  /** Starts an instance in the place of one that has ended, and waits until it is ready. */
  async add(which: 0 | 1): Promise<Service> {
    const instance = await Service.start({ port: this.#ports[which] as number })
    this.#instances[which] = instance
    return instance
  }

  async stop(): Promise<void> {
    await this.#proxy.stop()
    await Promise.all(this.#instances.map((instance) => instance.stop()))
  }
}
