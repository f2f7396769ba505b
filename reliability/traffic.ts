import { Agent } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { type Call, encodeCalls, send } from '../tools/calls.ts'
import { fixtures, readImages } from '../tools/images.ts'

/** What became of the requests. */
export interface Tally {
  /** Answered with the tokens that are expected. */
  right: number
  /** Answered with 200 and anything else, or with an error other than a problem of status 5xx. */
  wrong: number
  /** Answered with a problem, by its status. */
  problems: Record<string, number>
  /** Not answered: the connection failed, or no answer came. */
  unanswered: number
}

/** A request and the tokens that are its right answer. */
interface Case {
  call: Call
  tokens: number[][]
}

const PHOTOS = 24
/** Well past the deadline of a request, so that no answer can come any more. */
const UNANSWERED_MS = 90_000
/** So that clients that are refused at once do not flood the service. */
const PAUSE_AFTER_FAILURE_MS = 100

/** Clients that send photos, each its next request when the last is answered, and check every answer. */
export class Traffic {
  readonly tally: Tally = { right: 0, wrong: 0, problems: {}, unanswered: 0 }
  readonly #url: string
  readonly #cases: Case[]
  readonly #clients: Promise<void>[]
  #next = 0
  #stopping = false

  /** @param batch photos per request */
  static async begin(url: string, options: { clients: number; batch: number }): Promise<Traffic> {
    const photos = (await readImages(fixtures)).slice(0, PHOTOS)
    const alone: number[][] = []
    for (const call of await encodeCalls(photos, 1)) alone.push(...(await tokensOf(url, call)))
    const calls = await encodeCalls(photos, options.batch)
    const cases = calls.map((call, first) => ({
      call,
      tokens: Array.from({ length: options.batch }, (_, i) => alone[(first + i) % alone.length] as number[]),
    }))
    return new Traffic(url, cases, options.clients)
  }

  private constructor(url: string, cases: Case[], clients: number) {
    this.#url = url
    this.#cases = cases
    this.#clients = Array.from({ length: clients }, () => this.#client())
  }

  /** Requests that failed, in whatever way. */
  get failed(): number {
    const { wrong, problems, unanswered } = this.tally
    return wrong + unanswered + Object.values(problems).reduce((sum, count) => sum + count, 0)
  }

  /** Sends no more, and waits for the answers that are still due. */
  async stop(): Promise<Tally> {
    this.#stopping = true
    await Promise.all(this.#clients)
    return this.tally
  }

  async #client(): Promise<void> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!this.#stopping) {
      const right = await this.#request(this.#cases[this.#next++ % this.#cases.length] as Case, agent)
      if (!right) await sleep(PAUSE_AFTER_FAILURE_MS)
    }
    agent.destroy()
  }

  async #request({ call, tokens }: Case, agent: Agent): Promise<boolean> {
    const timer = new AbortController()
    const never = sleep(UNANSWERED_MS, undefined, { signal: timer.signal }).catch(() => undefined)
    const answer = await Promise.race([send(this.#url, call, agent).catch(() => undefined), never])
    timer.abort()
    if (answer === undefined) this.tally.unanswered++
    else if (answer.status === 200 && isDeepStrictEqual(JSON.parse(`${answer.body}`).tokens, tokens)) this.tally.right++
    else if (answer.status >= 500 && isProblem(answer.body)) {
      this.tally.problems[answer.status] = (this.tally.problems[answer.status] ?? 0) + 1
    } else this.tally.wrong++
    return answer?.status === 200
  }
}

/** The tally as a sentence. */
export function inWords({ right, wrong, problems, unanswered }: Tally): string {
  const refused = Object.entries(problems).map(([status, count]) => `${count} answered ${status}`)
  return [`${right} right`, `${wrong} wrong`, ...refused, `${unanswered} not answered`].join(', ')
}

async function tokensOf(url: string, call: Call): Promise<number[][]> {
  const { status, body } = await send(url, call)
  if (status !== 200) throw new Error(`encoding a photo to know its tokens: ${status} ${body}`)
  return (JSON.parse(`${body}`) as { tokens: number[][] }).tokens
}

function isProblem(body: Buffer): boolean {
  try {
    return (JSON.parse(`${body}`) as { type: string }).type.startsWith('urn:nativetok:problem:')
  } catch {
    return false
  }
}
