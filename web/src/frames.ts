import type { Picture } from './pixels.ts'

export interface FramesOptions {
  /** The least and the largest k. */
  from: number
  to: number
  /** The tokens behind frame k. */
  sequenceOf: (k: number) => number[]
  /** Decodes a batch; rejects when the signal is aborted. */
  decode: (sequences: number[][], signal: AbortSignal) => Promise<Picture[]>
  /** Most sequences of the next request. */
  batch: () => number
  /** Frames that come along with what is wanted first. */
  along?: number[]
  /** Frames that one batch brought. */
  onFrames: (ks: number[]) => void
  /** A batch failed; those that were superseded do not count. */
  onError: (error: unknown) => void
  /** Work begins or ends. */
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

  /** Frame k comes next, unless it is here already. */
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

  /** Ends what is under way; nothing begins any more. */
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
        // The next wish tries again.
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

/** Of these numbers the `count` closest to one. */
export function nearest(numbers: readonly number[], to: number, count: number): number[] {
  return numbers
    .toSorted((a, b) => Math.abs(a - to) - Math.abs(b - to))
    .slice(0, count)
    .sort((a, b) => a - b)
}

/** A few numbers over a row, dense at its beginning: each step is as long as the way so far. */
export function doubling(from: number, to: number): number[] {
  const ks: number[] = []
  for (let step = 1; from + step - 1 < to; step *= 2) ks.push(from + step - 1)
  return [...ks, to]
}
