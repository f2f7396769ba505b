import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { authorization, type Call } from './calls.ts'
import type { Random } from './random.ts'

// autocannon has no Poisson arrivals, and measures from when a request was sent instead of when it was due.

/** A request, and when it is due in milliseconds from the start. */
export interface Arrival {
  due: number
  call: Call
}

/** The outcome of an arrival. Times are in milliseconds from the start. */
export interface Outcome extends Arrival {
  sent: number
  /** When the answer or the failure arrived. */
  done: number
  /** Status, or error code. */
  outcome: number | string
  /** Seconds, from the header of that name; NaN if there was none. */
  retryAfter: number
}

/** Arrivals of a Poisson process: gaps are exponential, so requests come in bursts, like those of independent clients. */
export function poissonArrivals(calls: readonly Call[], rate: number, seconds: number, random: Random): Arrival[] {
  const arrivals: Arrival[] = []
  for (let due = 0; ; ) {
    due += (-Math.log(1 - random.unit()) * 1000) / rate
    if (due >= seconds * 1000) return arrivals
    arrivals.push({ due, call: random.pick(calls) })
  }
}

/** Arrivals at equal intervals. */
export function evenArrivals(calls: readonly Call[], rate: number, seconds: number): Arrival[] {
  return Array.from({ length: Math.floor(rate * seconds) }, (_, i) => ({
    due: (i * 1000) / rate,
    call: calls[i % calls.length] as Call,
  }))
}

/**
 * Open-loop load: sends every request when it is due, whether or not earlier ones have been answered, over as many
 * connections as that takes.
 *
 * @param arrivals by when they are due
 * @returns when the last request was sent: what will become of each
 */
export async function sendWhenDue(
  url: string,
  arrivals: readonly Arrival[],
  agent: Agent,
): Promise<Promise<Outcome>[]> {
  const start = performance.now()
  const outcomes: Promise<Outcome>[] = []
  for (const arrival of arrivals) {
    const wait = start + arrival.due - performance.now()
    if (wait > 0) await sleep(wait)
    const sent = performance.now()
    outcomes.push(
      answerTo(url, arrival.call, agent).then((answer) => {
        return { ...arrival, ...answer, sent: sent - start, done: performance.now() - start }
      }),
    )
  }
  return outcomes
}

/** Sends a call, reads its answer to the end, and returns its status or the error. */
export function answerTo(url: string, call: Call, agent: Agent): Promise<Pick<Outcome, 'outcome' | 'retryAfter'>> {
  return new Promise((resolve) => {
    const settle = (outcome: number | string, retryAfter = Number.NaN) => resolve({ outcome, retryAfter })
    const failed = (error: NodeJS.ErrnoException) => settle(error.code ?? error.message)
    const headers = { ...authorization, 'content-type': call.type, 'content-length': call.body.length }
    request(new URL(call.path, url), { method: 'POST', headers, agent }, (response) => {
      response.on('end', () => settle(response.statusCode ?? 0, Number(response.headers['retry-after'])))
      response.on('error', failed).resume()
    })
      .on('error', failed)
      .end(call.body)
  })
}

/** Keeps connections open between requests, and opens as many as are needed. */
export function keepAliveAgent(): Agent {
  return new Agent({ keepAlive: true })
}
