// A thread that requests /health/live over one connection every 20 ms until it is stopped, and then reports how long
// the answers took. A thread of its own, so that the load client's own work does not count as the server's delay.
import { Agent, get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { percentile } from './statistics.ts'

/** Milliseconds from a request to its answer, and how many requests failed or had another status than 200. */
export interface Health {
  p50: number | null
  p99: number | null
  asked: number
  failed: number
}

const PAUSE_MS = 20
const url = new URL('/health/live', workerData as string)
const agent = new Agent({ keepAlive: true, maxSockets: 1 })
const latencies: number[] = []
let failed = 0
let stopped = false
parentPort?.once('message', () => {
  stopped = true
})

while (!stopped) {
  const start = performance.now()
  if (await isLive()) latencies.push(performance.now() - start)
  else failed++
  await sleep(PAUSE_MS)
}
agent.destroy()
latencies.sort((a, b) => a - b)
const at = (percent: number) => (latencies.length === 0 ? null : percentile(latencies, percent))
parentPort?.postMessage({ p50: at(50), p99: at(99), asked: latencies.length + failed, failed } satisfies Health)

function isLive(): Promise<boolean> {
  return new Promise((resolve) => {
    get(url, { agent }, (response) => {
      response.resume()
      response.on('end', () => resolve(response.statusCode === 200))
      response.on('error', () => resolve(false))
    }).on('error', () => resolve(false))
  })
}
