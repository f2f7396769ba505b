import { QueueFullError } from './errors.ts'
import { Pace } from './pace.ts'

/** Images admitted; held from admission until they are answered. */
export interface Reservation {
  /**
   * Admits `images` more.
   * @throws QueueFullError when they do not fit; what was reserved before stays so.
   */
  grow(images: number): void
  /** Says that all the client has to send is there: from here on its images wait for this service alone. */
  begin(): void
  /** One image is done. Before {@link begin} it says nothing. */
  done(): void
  /** Gives everything back. May be called again, without effect. */
  release(): void
}

/** Of the time that a request has, one part in so many may go to what is ahead of it. */
const SHARE_AHEAD = 3

/**
 * Counts the images in flight and refuses at once what is over the bound, or what might not be answered within its
 * deadline at the pace of late: a third of it may go to what is ahead. The rest is for the request's own images, for turns
 * that later ones get before it, and for an engine that hangs, is found after another third, and is replaced.
 */
export class Reservations {
  readonly #limit: number
  readonly #enough: number
  readonly #pace: Pace
  #held = 0
  /** Of those held, images that are done and wait for the rest of their request. */
  #done = 0
  #emptied = Promise.withResolvers<void>()

  /**
   * @param limit images held at most
   * @param enough images that keep all engines busy; no fewer say anything about the pace, or are refused by it
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

  /** Resolves when nothing is held. */
  emptied(): Promise<void> {
    return this.#emptied.promise
  }

  /**
   * @param deadlineMs milliseconds within which the request has to be answered
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
        `${this.#held} images are in flight; ${more} more would exceed the bound of ${this.#limit}`,
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
