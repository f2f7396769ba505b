import autocannon from 'autocannon'
import { authorization, type Call } from './calls.ts'

/** Longer than any request takes, so that the server's deadlines come first. */
const ANSWER_SECONDS = 120
/** How often autocannon checks whether it should stop. */
const STOP_WITHIN_MS = 50
const LONGEST_SECONDS = 86_400
const NO_ANSWER = 'connection closed without an answer'

/** The answers between {@link Load.begin} and {@link Load.end}. */
export interface Answered {
  requests: number
  /** Of requests answered with 200, in milliseconds from sending the request to the end of its answer, ascending. */
  latencies: number[]
  /** The number of each status other than 200 and of each error. */
  errors: Record<string, number>
}

export interface LoadOptions {
  clients: number
  /** Stops after this many requests; otherwise at {@link Load.stop}. */
  requests?: number
}

/**
 * Closed-loop load by autocannon: every client has its own connection and sends its next request when it has the
 * answer to the last. All clients take their requests in turn from the same list. Answers are counted here, because
 * autocannon's own results have whole milliseconds, no 95th percentile, no warm-up within the same load, and miss
 * requests whose connection the server closed.
 */
export class Load {
  /** Resolves when the last of {@link LoadOptions.requests} is answered, or after {@link stop}. */
  readonly done: Promise<void>
  readonly #instance: autocannon.Instance
  #answered: Answered = { requests: 0, latencies: [], errors: {} }
  #counting = false

  constructor(url: string, calls: readonly Call[], { clients, requests }: LoadOptions) {
    let next = 0
    const setupRequest = (request: autocannon.Request): autocannon.Request => {
      const { path, type, body } = calls[next++ % calls.length] as Call
      return { ...request, method: 'POST', path, body, headers: { ...authorization, 'content-type': type } }
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.done = promise
    this.#instance = autocannon(
      {
        url,
        connections: Math.min(clients, requests ?? clients),
        requests: [{ setupRequest }],
        ...(requests === undefined ? { duration: LONGEST_SECONDS } : { amount: requests }),
        timeout: ANSWER_SECONDS,
        sampleInt: STOP_WITHIN_MS,
        setupClient: (client) => this.#watch(client),
      },
      (error: unknown) => (error ? reject(error) : resolve()),
    )
  }

  /** Starts counting. */
  begin(): void {
    this.#answered = { requests: 0, latencies: [], errors: {} }
    this.#counting = true
  }

  /** Stops counting. */
  end(): Answered {
    this.#counting = false
    this.#answered.latencies.sort((a, b) => a - b)
    return this.#answered
  }

  /** Closes all connections, even with requests in progress. */
  async stop(): Promise<void> {
    this.#instance.stop()
    await this.done
  }

  /** The package's types leave out most events of a client. */
  #watch(client: NodeJS.EventEmitter): void {
    let sent: number | undefined
    client.on('request', () => {
      if (sent !== undefined) this.#fail(NO_ANSWER)
      sent = performance.now()
    })
    client.on('connError', (error: NodeJS.ErrnoException) => {
      sent = undefined
      this.#fail(error.code ?? error.message)
    })
    client.on('response', (status: number) => {
      if (status !== 200) this.#fail(`${status}`)
      else if (this.#counting && sent !== undefined) {
        this.#answered.requests++
        this.#answered.latencies.push(performance.now() - sent)
      }
      sent = undefined
    })
  }

  #fail(error: string): void {
    if (this.#counting) this.#answered.errors[error] = (this.#answered.errors[error] ?? 0) + 1
  }
}
