import { poolSize } from '../formats/thread-pool.ts'
import type { ImagePreparation } from '../inference/inference.ts'
import { type Crops, viewsOf } from './crops.ts'
import { syncFolder } from './durable.ts'
import { ItemError, StoppedError } from './errors.ts'
import { ErrorsLog } from './errors-log.ts'
import type { Format, OutputFile, Row, Writer } from './formats/format.ts'
import { inOrder } from './in-order.ts'
import { beginning, readJournal, type State, writeJournal } from './journal.ts'
import { type Counts, checkSamePlan, dataSetOf, type Plan } from './manifest.ts'
import type { Reached } from './progress.ts'
import type { Item, Source } from './sources/source.ts'
import type { Tokenizer } from './tokenizers/tokenizer.ts'

/** What to tokenize, with what, and where to. */
export interface Job {
  plan: Plan
  source: Source
  tokenizer: Tokenizer
  format: Format
  /** The output folder. */
  out: string
  crops: Crops
  image: ImagePreparation
  /** Whether the first image that fails ends the run. */
  strict: boolean
  /** Stops the run, which can then go on later. Its reason is a StoppedError. */
  signal: AbortSignal
  reached(reached: Reached): void
}

/** An image ended a strict run. */
export class StrictError extends Error {}

/** How often what was written is made durable, which is how much work a kill can cost. */
const COMMIT_MS = 1000
/** Rows that are written at a time. */
const ROWS_AT_ONCE = 64
/** Images that are read and decoded at a time: as many as the threads decode, and as many again that wait for a disk. */
const PREPARING = 2 * poolSize

/** An image with its views, or its tokens, or the reason why it has none. */
type Outcome<T> = { item: Item } & ({ value: T } | { failed: string })

/**
 * Tokenizes a source into an output folder, from where an earlier run stopped. Images are read, decoded and encoded many at
 * a time, and written in order.
 *
 * @returns what was written, and how many images were behind when it began
 * @throws OptionsError if the folder was begun with another plan; StrictError; StoppedError
 */
export async function run(job: Job): Promise<{ counts: Counts; files: OutputFile[]; began: number }> {
  const { out, plan, format } = job
  const state = await begin(job)
  const errors = await ErrorsLog.open(out, state.errors)
  const writer = await format.open(out, dataSetOf(plan), state.mark)
  try {
    const end = await new Recorder(job, state, writer, errors).recordAll()
    const files = [...(await writer.finish()), ...(await errors.files())]
    const { position, rows, labels } = end
    await errors.close()
    const counts = { images: position.image, rows, errors: end.errors.count, labels: labels.length }
    return { counts, files, began: state.position.image }
  } catch (error) {
    // A writer that failed cannot always be closed; what it left is removed by the next run.
    await Promise.allSettled([writer.abort(), errors.close()])
    throw error
  }
}

/** Where an earlier run with the same plan stopped, or the beginning. */
async function begin({ out, plan }: Job): Promise<State> {
  const journal = await readJournal(out)
  if (journal !== undefined) {
    checkSamePlan(out, journal.plan, plan)
    return journal.state
  }
  await writeJournal(out, { plan, state: beginning })
  await syncFolder(out)
  return beginning
}

/** Takes the outcomes in order: writes rows and failures, and makes them durable from time to time. */
class Recorder {
  readonly #job: Job
  readonly #writer: Writer
  readonly #errors: ErrorsLog
  readonly #labels: Set<number>
  #position: State['position']
  #rows: number
  #pending: Row[] = []

  constructor(job: Job, state: State, writer: Writer, errors: ErrorsLog) {
    this.#job = job
    this.#writer = writer
    this.#errors = errors
    this.#labels = new Set(state.labels)
    this.#position = state.position
    this.#rows = state.rows
  }

  /** @returns where the run stands at the end of the source */
  async recordAll(): Promise<State> {
    let committed = performance.now()
    try {
      for await (const outcome of outcomesOf(this.#job, this.#position)) {
        this.#job.signal.throwIfAborted()
        await this.#record(outcome)
        if (this.#pending.length >= ROWS_AT_ONCE) await this.#flush()
        if (performance.now() - committed < COMMIT_MS) continue
        await this.#commit()
        committed = performance.now()
      }
    } catch (error) {
      if (error instanceof StrictError || error instanceof StoppedError) await this.#commit()
      throw error
    }
    return this.#commit()
  }

  async #record(outcome: Outcome<Uint16Array>): Promise<void> {
    const { index, key, label, next, done } = outcome.item
    if ('failed' in outcome) {
      if (this.#job.strict) throw new StrictError(`image ${index} (${key}) ${outcome.failed}`)
      await this.#errors.add({ index, key, reason: outcome.failed })
    } else {
      this.#pending.push({ number: this.#rows++, key, label, tokens: outcome.value })
      if (label !== undefined) this.#labels.add(label)
    }
    this.#position = next
    this.#job.reached({ images: next.image, errors: this.#errors.state.count, done })
  }

  async #flush(): Promise<void> {
    const rows = this.#pending
    this.#pending = []
    if (rows.length > 0) await this.#writer.write(rows)
  }

  async #commit(): Promise<State> {
    await this.#flush()
    const mark = await this.#writer.commit()
    await this.#errors.sync()
    const state: State = {
      position: this.#position,
      rows: this.#rows,
      errors: this.#errors.state,
      labels: [...this.#labels].sort((a, b) => a - b),
      mark,
    }
    await writeJournal(this.#job.out, { plan: this.#job.plan, state })
    return state
  }
}

/** The tokens of every image from a position on, in order. */
function outcomesOf(job: Job, from: State['position']): AsyncIterable<Outcome<Uint16Array>> {
  const { source, tokenizer, crops, image, plan } = job
  const { maxPixels, tokens } = plan
  const { length, views } = tokens
  const encoding = Math.max(2, Math.ceil(tokenizer.capacity / views))
  const prepare = (item: Item) => outcomeOf(item, async () => viewsOf(await item.read(), crops, image, maxPixels))
  const encode = async (outcome: Outcome<Uint8Array[]>): Promise<Outcome<Uint16Array>> => {
    if ('failed' in outcome) return outcome
    return outcomeOf(outcome.item, async () => {
      const rows = await Promise.all(outcome.value.map((pixels) => tokenizer.encode(pixels, length)))
      return joined(rows, length)
    })
  }
  return inOrder(inOrder(source.items(from), PREPARING, prepare), encoding, encode)
}

async function outcomeOf<T>(item: Item, work: () => Promise<T>): Promise<Outcome<T>> {
  try {
    return { item, value: await work() }
  } catch (error) {
    if (error instanceof ItemError) return { item, failed: error.message }
    throw error
  }
}

function joined(rows: Uint16Array[], length: number): Uint16Array {
  const [only] = rows
  if (rows.length === 1 && only) return only
  const tokens = new Uint16Array(rows.length * length)
  for (const [i, row] of rows.entries()) tokens.set(row, i * length)
  return tokens
}
