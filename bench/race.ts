import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Call, encodeCalls, send } from '../tools/calls.ts'
import type { LoadResult } from '../tools/clients.ts'
import { freePort } from '../tools/free-port.ts'
import { fullPhotos, type ImageFile, makeCrops, readImages } from '../tools/images.ts'
import { runScript } from '../tools/script.ts'
import { Server } from '../tools/server.ts'
import { type Agreement, type Answers, answersOf, compare, isSame } from './agreement.ts'
import type { BaselineResult, StageResult, TokensResult } from './baseline.ts'
import type { Contestant, Place } from './contestants.ts'
import { BASELINE, type Entry, type LoadName, loads, type Results } from './results.ts'

/** What to measure. */
export interface Plan extends Omit<Place, 'port'> {
  /** The reference for the answers of all others. */
  service: Contestant
  contestants: Contestant[]
  /** Whether to measure the baseline. */
  baseline: boolean
  /** Whether a contestant that computes something else is measured anyway. */
  allowOtherModels?: boolean
  loads: LoadName[]
  clients: number[]
  rounds: number
  seconds: number
  imageSize: number
  /** Receives a line about each step. */
  say(line: string): void
}

const LONGEST_WARM_UP_SECONDS = 2
/** Not every peer ends all its processes on request. */
const STOP_SECONDS = 10
/** Batch sizes of the baseline; the fastest counts. */
const BATCHES = [8, 16, 32, 64]

/**
 * Runs every contestant under every load in every round. One runs at a time: it is started, measured under one load with
 * all numbers of clients, and stopped; then comes the next one. So changes of the machine's speed affect all of them
 * within minutes. Who begins changes from load to load and from round to round.
 */
export async function race(plan: Plan): Promise<Omit<Results, 'machine'>> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-'))
  try {
    const { crops, lossless } = await makeCrops(folder, plan.imageSize)
    const race = new Race(plan, { crops, photos: fullPhotos }, lossless, await readImages(lossless))
    return await race.run()
  } finally {
    await rm(folder, { recursive: true })
  }
}

class Race {
  readonly #plan: Plan
  readonly #folders: Record<'crops' | 'photos', string>
  readonly #losslessFolder: string
  readonly #lossless: ImageFile[]
  readonly #results: Omit<Results, 'machine'> = { entries: [], rows: [], baseline: [], stages: [], coldStarts: [] }

  constructor(plan: Plan, folders: Record<'crops' | 'photos', string>, losslessFolder: string, lossless: ImageFile[]) {
    this.#plan = plan
    this.#folders = folders
    this.#losslessFolder = losslessFolder
    this.#lossless = lossless
  }

  async run(): Promise<Omit<Results, 'machine'>> {
    const { contestants, baseline, rounds } = this.#plan
    const expected = await this.#serving(this.#plan.service, ({ url }) => answersOf(url, this.#lossless))
    const racers: { entry: Entry; measure(round: number, load: LoadName): Promise<void> }[] = []
    if (baseline) {
      const entry = await this.#enter({ name: BASELINE, title: 'the baseline' }, () =>
        this.#baselineAgreement(expected),
      )
      racers.push({ entry, measure: (round, load) => this.#measureBaseline(round, load) })
    }
    for (const contestant of contestants) {
      const entry = await this.#enter(contestant, async () => {
        await contestant.prepare?.()
        return this.#serving(contestant, async ({ url }) =>
          compare(expected, await answersOf(url, this.#lossless, expected.tokens)),
        )
      })
      racers.push({ entry, measure: (round, load) => this.#measure(contestant, round, load) })
    }
    for (let round = 1; round <= rounds; round++) {
      for (const [turn, load] of this.#plan.loads.entries()) {
        const first = (round + turn) % racers.length
        for (const racer of [...racers.slice(first), ...racers.slice(0, first)]) {
          if (racer.entry.failure !== undefined) continue
          this.#plan.say(`round ${round}/${rounds}, ${loads[load].title}: ${racer.entry.title}`)
          await racer.measure(round, load).catch((error: unknown) => this.#fail(racer.entry, error))
        }
      }
    }
    return this.#results
  }

  /** Admits a contestant if its answers equal the service's. */
  async #enter({ name, title }: { name: string; title: string }, agree: () => Promise<Agreement>): Promise<Entry> {
    const entry: Entry = { name, title }
    this.#results.entries.push(entry)
    try {
      entry.agreement = await agree()
      const { tokens, difference } = entry.agreement
      const pictures = difference === undefined ? '' : `, its pictures differ by ${difference.toFixed(3)} of 255`
      const found = `${(tokens * 100).toFixed(2)} % of its tokens are the service's${pictures}`
      if (!isSame(entry.agreement) && !this.#plan.allowOtherModels)
        throw new Error(`disqualified, it computes something else: ${found}`)
      this.#plan.say(`${title}: ${found}`)
    } catch (error) {
      this.#fail(entry, error)
    }
    return entry
  }

  #fail(entry: Entry, error: unknown): void {
    entry.failure = error instanceof Error ? error.message : String(error)
    this.#plan.say(`${entry.title} is out: ${entry.failure}`)
  }

  async #serving<T>(contestant: Contestant, use: (server: Server) => Promise<T>): Promise<T> {
    const [first] = await encodeCalls(this.#lossless.slice(0, 1), 1)
    const server = await startContestant(contestant, this.#plan, first as Call)
    try {
      return await use(server)
    } finally {
      await server.stop()
    }
  }

  async #measure(contestant: Contestant, round: number, load: LoadName): Promise<void> {
    const { clients, seconds } = this.#plan
    const { route, images } = loads[load]
    await this.#serving(contestant, async ({ url, pid, startSeconds }) => {
      this.#results.coldStarts.push({ round, contestant: contestant.name, seconds: startSeconds })
      for (const count of clients) {
        const result = await runScript<LoadResult>('tools/clients.ts', {
          ...{ url, pid, route, clients: count, seconds, photos: this.#folders[images] },
          'warm-up': Math.min(LONGEST_WARM_UP_SECONDS, seconds / 2),
        })
        this.#results.rows.push({ round, contestant: contestant.name, load, ...result })
      }
    })
  }

  async #baselineAgreement(expected: Answers): Promise<Agreement> {
    const tokens = await this.#baseline<TokensResult>('tokens', this.#losslessFolder)
    return compare(expected, { tokens, pictures: [] })
  }

  async #measureBaseline(round: number, load: LoadName): Promise<void> {
    const { route, images } = loads[load]
    const single = await this.#baseline<BaselineResult[]>(route, this.#folders[images], [1])
    // One process per core with one thread each is faster than one process with one thread per core.
    const processes = await Promise.all(
      Array.from({ length: this.#plan.cores }, () =>
        this.#baseline<BaselineResult[]>(route, this.#folders[images], BATCHES),
      ),
    )
    const [sizes = []] = processes
    const together = sizes.map((_, i) => sum(processes.map((results) => results[i] as BaselineResult)))
    this.#results.baseline.push(...[...single, ...together].map((result) => ({ round, load, ...result })))
    if (load !== this.#plan.loads[0]) return
    const stages = await this.#baseline<StageResult[]>('stages', this.#folders.crops)
    this.#results.stages.push(...stages.map((result) => ({ round, ...result })))
  }

  #baseline<T>(work: string, images: string, batches: number[] = []): Promise<T> {
    const { model, seconds } = this.#plan
    return runScript('bench/baseline.ts', { work, images, model, seconds, batches: batches.join() })
  }
}

/** The combined result of several processes at one batch size. */
function sum(results: BaselineResult[]): BaselineResult {
  const [{ batch, inParts }] = results as [BaselineResult]
  const total = (value: (result: BaselineResult) => number) =>
    results.reduce((total, result) => total + value(result), 0)
  const mean = (value: (result: BaselineResult) => number) => total(value) / results.length
  return {
    batch,
    inParts,
    imagesPerSecond: total((result) => result.imagesPerSecond),
    cpuMsPerImage: mean((result) => result.cpuMsPerImage),
    latencyMs: {
      p50: mean(({ latencyMs }) => latencyMs.p50),
      p95: mean(({ latencyMs }) => latencyMs.p95),
      p99: mean(({ latencyMs }) => latencyMs.p99),
    },
    memoryMiB: total((result) => result.memoryMiB),
  }
}

/** Starts a contestant, until it answers `first` with status 200. */
export async function startContestant(
  contestant: Contestant,
  place: Omit<Place, 'port'>,
  first: Call,
): Promise<Server> {
  const port = await freePort()
  return Server.start({
    command: contestant.command({ ...place, port }),
    url: `http://127.0.0.1:${port}`,
    started: async (url) => (await send(url, first).catch(() => undefined))?.status === 200,
    stopSeconds: STOP_SECONDS,
  })
}
