import type { Picture } from './pixels.ts'

export interface FramesOptions {
  /** The smallest and the largest k. */
  from: number
  to: number
  /** The tokens behind frame k. */
  sequenceOf: (k: number) => number[]
  /** Decodes a batch; rejects when the signal is aborted. */
  decode: (sequences: number[][], signal: AbortSignal) => Promise<Picture[]>
  /** Maximum number of sequences in the next request. */
  batch: () => number
  /** Frames that are requested together with the first wanted one. */
  along?: number[]
  /** Called with the frames of a finished batch. */
  onFrames: (ks: number[]) => void
  /** Called when a batch failed, unless it was superseded. */
  onError: (error: unknown) => void
  /** Called when work begins or ends. */
  onBusy: (busy: boolean) => void
}

/**
 * A row of pictures that differ by one number k, as the prefixes of a sequence or the cuts between two. What is wanted
 * is decoded together with its neighbours in one batch; a batch that no longer holds what is wanted is aborted.
 */
export class Frames {
  readonly #options: FramesOptions
  readonly #pictures = new Map<number, Picture>()
  #batch: { ks: number[]; controller: AbortController } | undefined
  #wanted: number | undefined
  #filling = false
  #stopped = false

  constructor(options: FramesOptions) {
    this.#options = options
  }

  get(k: number): Picture | undefined {
    return this.#pictures.get(k)
  }

  /** The last of the frames that are here without a gap from the first on; one less than the first where that is missing. */
  get ready(): number {
    let k = this.#options.from
    while (this.#pictures.has(k)) k++
    return k - 1
  }

  /** Takes over what another row has of the frames up to `last`, which are the same there. */
  adopt(other: Frames, last: number): void {
    for (let k = this.#options.from; k <= last; k++) {
      const picture = other.get(k)
      if (picture !== undefined) this.#pictures.set(k, picture)
    }
  }

  /** Requests frame k next, unless it has arrived already. */
  want(k: number): void {
    if (this.#pictures.has(k)) {
      this.#wanted = undefined
      return
    }
    this.#wanted = k
    if (this.#batch !== undefined && !this.#batch.ks.includes(k)) this.#batch.controller.abort()
    void this.#pump()
  }

  /** Decodes all frames, first a few over the whole row, then the others in order. */
  fill(): void {
    this.#filling = true
    void this.#pump()
  }

  /** Aborts running requests and starts no more. */
  stop(): void {
    this.#stopped = true
    this.#batch?.controller.abort()
  }

  async #pump(): Promise<void> {
    const { decode, sequenceOf, onFrames, onError, onBusy } = this.#options
    if (this.#batch !== undefined || this.#stopped) return
    const ks = this.#next()
    if (ks.length === 0) return
    const batch = { ks, controller: new AbortController() }
    this.#batch = batch
    onBusy(true)
    try {
      const pictures = await decode(ks.map(sequenceOf), batch.controller.signal)
      batch.controller.signal.throwIfAborted()
      for (const [i, k] of ks.entries()) this.#pictures.set(k, pictures[i] as Picture)
      if (this.#wanted !== undefined && ks.includes(this.#wanted)) this.#wanted = undefined
      onFrames(ks)
    } catch (error) {
      if (!batch.controller.signal.aborted) {
        // The next request tries again.
        this.#filling = false
        this.#wanted = undefined
        onError(error)
      }
    } finally {
      this.#batch = undefined
      onBusy(false)
    }
    void this.#pump()
  }

  /** The frames of the next batch. */
  #next(): number[] {
    const { from, to, along = [] } = this.#options
    const batch = this.#options.batch()
    const missing: number[] = []
    for (let k = from; k <= to; k++) if (!this.#pictures.has(k)) missing.push(k)
    if (this.#wanted !== undefined) {
      const others = along.filter((k) => missing.includes(k))
      const near = nearest(missing, this.#wanted, Math.max(1, batch - others.length))
      return [...new Set([...near, ...others])].slice(0, batch)
    }
    if (!this.#filling) return []
    const few = doubling(from, to).filter((k) => missing.includes(k))
    return (few.length > 0 ? few : missing).slice(0, batch)
  }
}

/** The `count` numbers closest to a given one. */
export function nearest(numbers: readonly number[], to: number, count: number): number[] {
  return numbers
    .toSorted((a, b) => Math.abs(a - to) - Math.abs(b - to))
    .slice(0, count)
    .sort((a, b) => a - b)
}

/** A few numbers across a range, denser at its beginning: each step is as long as the distance so far. */
export function doubling(from: number, to: number): number[] {
  const ks: number[] = []
  for (let step = 1; from + step - 1 < to; step *= 2) ks.push(from + step - 1)
  return [...ks, to]
}
