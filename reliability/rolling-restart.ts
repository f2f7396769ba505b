import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../tools/free-port.ts'
import { Server } from '../tools/server.ts'
import { isReady, Service } from '../tools/service.ts'
import type { Finding, Scope } from './promise.ts'
import { inWords, Traffic } from './traffic.ts'

const CLIENTS = 16
const CONFIGURATION = join(import.meta.dirname, '..', 'deploy', 'haproxy.cfg')

/** Two instances behind HAProxy with `deploy/haproxy.cfg` are restarted one after the other under load. */
export async function* rollingRestart({ long }: Scope): AsyncGenerator<Finding> {
  if (spawnSync('haproxy', ['-v']).status !== 0) {
    console.error('rolling-restart: haproxy is not installed, so this was skipped')
    return
  }
  const rounds = long ? 5 : 1
  const [listen, ...ports] = [await freePort(), await freePort(), await freePort()] as const
  const instances: Service[] = []
  let proxy: Server | undefined
  try {
    for (const port of ports) instances.push(await Service.start({ port }))
    const [first, second] = ports.map((port) => `127.0.0.1:${port}`)
    const url = `http://127.0.0.1:${listen}`
    proxy = await Server.start({
      command: ['haproxy', '-f', CONFIGURATION],
      env: { NATIVETOK_LISTEN: `127.0.0.1:${listen}`, NATIVETOK_1: first, NATIVETOK_2: second },
      url,
      started: isReady,
    })
    const traffic = await Traffic.begin(url, { clients: CLIENTS, batch: 1 })
    const exits: unknown[] = []
    for (let restart = 0; restart < rounds * ports.length; restart++) {
      const which = restart % ports.length
      await (instances[which] as Service).stop()
      exits.push(instances[which]?.exit)
      instances[which] = await Service.start({ port: ports[which] as number })
      // As in a rollout, the new instance must be in use before the next one is stopped.
      await sleep(3000)
    }
    const tally = await traffic.stop()
    yield {
      promise: `behind HAProxy, ${exits.length} restarts of one of two instances fail no request of ${CLIENTS} clients`,
      figure: `${inWords(tally)}; the instances ended with ${exits.join(', ')}`,
      kept: traffic.failed === 0 && tally.right > 0 && exits.every((code) => code === 0),
    }
  } finally {
    await proxy?.stop()
    await Promise.all(instances.map((instance) => instance.stop()))
  }
}
