import { QueueFullError } from './errors.ts'
import { Pace } from './pace.ts'

/** A reservation of admitted images, held until they are answered. */
export interface Reservation {
  /**
   * Admits `images` more.
   * @throws QueueFullError when they do not fit; what was reserved before stays reserved.
   */
  grow(images: number): void
  /** Notes that the request has arrived in full: from now on its images wait only for this service. */
  begin(): void
  /** Notes that one image is done. Ignored before {@link begin}. */
  done(): void
  /** Releases everything. Further calls have no effect. */
  release(): void
}

/** The images ahead of a request may use one part in this many of its time. */
const SHARE_AHEAD = 3

/**
 * Counts the images in flight. It refuses at once any request over the limit, and any that might miss its deadline at the
 * recent pace: the images ahead may use a third of the deadline. The rest is for the request's own images, for later
 * requests that get their turn first, and for an engine that hangs, is detected after another third, and is replaced.
 */
export class Reservations {
  readonly #limit: number
  readonly #enough: number
  readonly #pace: Pace
  #held = 0
  /** Held images that are done and wait for the rest of their request. */
  #done = 0
  #emptied = Promise.withResolvers<void>()

  /**
   * @param limit maximum number of images held
   * @param enough images that keep all engines busy; fewer images say nothing about the pace and are not refused because
   * of it
   */
  constructor(limit: number, enough: number) {
    this.#limit = limit
    this.#enough = enough
    this.#pace = new Pace(enough)
    this.#emptied.resolve()
  }

  /** Images in flight. */
  get held(): number {
    return this.#held
  }

  /** Resolves when no image is held. */
  emptied(): Promise<void> {
    return this.#emptied.promise
  }

  /**
   * @param deadlineMs milliseconds within which the request must be answered
   * @throws QueueFullError
   */
  reserve(images: number, deadlineMs = Number.POSITIVE_INFINITY): Reservation {
    let held = 0
    let done = 0
    let begun = false
    const grow = (more: number) => {
      this.#check(held - done, more, deadlineMs / 1000)
      if (this.#held === 0) this.#emptied = Promise.withResolvers()
      this.#held += more
      held += more
      if (begun) this.#pace.begin(more)
    }
    grow(images)
    return {
      grow,
      begin: () => {
        if (begun) return
        begun = true
        this.#pace.begin(held)
      },
      done: () => {
        if (!begun || done === held) return
        done++
        this.#done++
        this.#pace.done()
      },
      release: () => {
        if (begun) this.#pace.leave(held - done)
        this.#done -= done
        this.#held -= held
        held = 0
        done = 0
        if (this.#held === 0) this.#emptied.resolve()
      },
    }
  }

  /** @param own images of the request that are not done yet */
  #check(own: number, more: number, deadline: number): void {
    const { rate } = this.#pace
    if (this.#held + more > this.#limit) {
      throw new QueueFullError(
        `${this.#held} images are in flight; ${more} more would exceed the limit of ${this.#limit}`,
        rate && (this.#held + more - this.#limit) / rate,
      )
    }
    const ahead = this.#held - this.#done - own
    if (rate === undefined || ahead < this.#enough) return
    const excess = SHARE_AHEAD * ahead + own + more - rate * deadline
    if (excess > 0) {
      throw new QueueFullError(
        `${ahead} images are ahead, ${Math.round(ahead / rate)} s of work; ${own + more} more might not be answered within ${deadline} s`,
        excess / SHARE_AHEAD / rate,
      )
    }
  }
}
