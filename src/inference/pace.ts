/** Milliseconds. Images come back in batches, so a shorter stretch says little. */
const STRETCH_MS = 1000
/** Weight of the latest stretch, against all before it. */
const WEIGHT = 0.5

/**
 * How fast images are done while there are enough of them: the rate at which a queue shrinks, whichever step is the slowest.
 * With fewer images at work the engines wait for requests, and the rate says how much was asked for, not how much is possible.
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

  /** Images per second; undefined until a stretch was measured. */
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

  /** Work on `images` ends without their being done. */
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
