/** Milliseconds. Images come back in batches, so a shorter stretch says little. */
const STRETCH_MS = 1000
/** Weight of the latest stretch, relative to all earlier ones. */
const WEIGHT = 0.5

/**
 * Measures how fast images are finished while there are enough of them: the rate at which a queue shrinks, whichever step
 * is the slowest. With fewer images, the engines wait for requests, and the rate shows the demand, not the capacity.
 */
export class Pace {
  readonly #enough: number
  #rate: number | undefined
  #atWork = 0
  #stretch: { since: number; done: number } | undefined

  /** @param enough number of images that keeps everything busy */
  constructor(enough: number) {
    this.#enough = enough
  }

  /** Images per second; undefined until a stretch has been measured. */
  get rate(): number | undefined {
    return this.#rate
  }

  /** Records that work on `images` begins. */
  begin(images: number): void {
    this.#atWork += images
  }

  /** Records that one image is done. */
  done(): void {
    const now = performance.now()
    if (this.#stretch) this.#measure(this.#stretch, now)
    else this.#stretch = { since: now, done: 0 }
    this.leave(1)
  }

  /** Records that work on `images` ends without a result. */
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
