/** Milliseconds. Batches come back in lumps, so that a shorter stretch says little. */
const STRETCH_MS = 1000
/** What the latest stretch counts, against all before it. */
const WEIGHT = 0.5

/**
 * How fast images are done while there are enough of them: what a queue is worked off at, whichever step is the slowest.
 * With fewer at work the engines wait for clients, and what comes out says how much was asked for, not how much is possible.
 */
export class Pace {
  readonly #enough: number
  #rate: number | undefined
  #atWork = 0
  #stretch: { since: number; done: number } | undefined

  /** @param enough images at work that keep everything busy */
  constructor(enough: number) {
    this.#enough = enough
  }

  /** Images a second; undefined until there was a stretch to measure. */
  get rate(): number | undefined {
    return this.#rate
  }

  /** Work on `images` begins. */
  begin(images: number): void {
    this.#atWork += images
  }

  /** One image is done. */
  done(): void {
    const now = performance.now()
    if (this.#stretch) this.#measure(this.#stretch, now)
    else this.#stretch = { since: now, done: 0 }
    this.leave(1)
  }

  /** Work on `images` ends, not all of them done. */
  leave(images: number): void {
    this.#atWork -= images
    if (this.#atWork < this.#enough) this.#stretch = undefined
  }

  #measure(stretch: { since: number; done: number }, now: number): void {
    stretch.done++
    const seconds = (now - stretch.since) / 1000
    if (seconds * 1000 < STRETCH_MS) return
    const rate = stretch.done / seconds
    this.#rate = this.#rate === undefined ? rate : WEIGHT * rate + (1 - WEIGHT) * this.#rate
    this.#stretch = { since: now, done: 0 }
  }
}
