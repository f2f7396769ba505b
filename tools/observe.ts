import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Health } from './health.ts'
import { cpuSeconds, memoryMiB } from './process-tree.ts'

/** What was observed of a server under load. */
export interface Observation {
  health: Health
  /** 99th percentile delay of the server's event loop, if its /metrics has it. */
  eventLoopMs: number | null
  /** Processor time of the server's process tree, and its memory afterwards, if its process id is known. */
  cpuSeconds: number | null
  memoryMiB: number | null
}

/** Node samples the event loop's delay with a timer of this interval, which it includes in the delay. */
const SAMPLING_MS = 10

/**
 * Starts to observe a server.
 *
 * @param pid its process, if it runs on this machine
 * @returns a function that ends the observation and returns its results
 */
export async function observe(url: string, pid?: number): Promise<() => Promise<Observation>> {
  // Reading the metrics resets the histogram of the event loop's delay.
  await eventLoopDelay(url)
  const probe = new Worker(new URL('./health.ts', import.meta.url), { workerData: url })
  await once(probe, 'online')
  const before = pid === undefined ? 0 : await cpuSeconds(pid)
  return async () => {
    const cpu = pid === undefined ? null : (await cpuSeconds(pid)) - before
    probe.postMessage('stop')
    const [health] = (await once(probe, 'message')) as [Health]
    return {
      health,
      eventLoopMs: await eventLoopDelay(url),
      cpuSeconds: cpu,
      memoryMiB: pid === undefined ? null : await memoryMiB(pid),
    }
  }
}

async function eventLoopDelay(url: string): Promise<number | null> {
  const metrics = await fetch(new URL('/metrics', url)).then((answer) => (answer.ok ? answer.text() : ''))
  const seconds = /^\w*nodejs_eventloop_lag_p99_seconds ([\d.e-]+)$/m.exec(metrics)?.[1]
  return seconds === undefined ? null : Math.max(0, Number(seconds) * 1000 - SAMPLING_MS)
}
