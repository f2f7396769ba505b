/** What a client has asked for of late. */
interface Habit {
  /** Images of its latest request, and how many of them are not answered yet. */
  images: number
  open: number
  /** When the last of them was answered, on the clock of `performance.now()`. */
  answeredAt: number
  /** Milliseconds from an answer in full to the request after it, the last time. */
  pause: number
}

/**
 * Tells which clients come back with more as soon as they are answered, from how long they took the last time. One that is
 * far away, or has something else to do, takes too long to be waited for; one that is close does not.
 */
export class ReturningClients {
  readonly #habits = new WeakMap<object, Habit>()
  /** Those with nothing open, the one answered first in front. */
  readonly #away = new Set<Habit>()

  /** A client asks for one image. */
  asks(client: object): void {
    let habit = this.#habits.get(client)
    if (!habit) {
      habit = { images: 0, open: 0, answeredAt: Number.NEGATIVE_INFINITY, pause: 0 }
      this.#habits.set(client, habit)
    }
    if (habit.open === 0) {
      habit.pause = performance.now() - habit.answeredAt
      habit.images = 0
      this.#away.delete(habit)
    }
    habit.images++
    habit.open++
  }

  /** One image that the client asked for is answered. */
  answered(client: object): void {
    const habit = this.#habits.get(client)
    if (!habit || --habit.open > 0) return
    habit.answeredAt = performance.now()
    this.#away.add(habit)
  }

  /** Images of clients that were answered less than `ms` milliseconds ago, and took no longer to come back the last time. */
  expected(ms: number): number {
    const now = performance.now()
    let images = 0
    for (const habit of this.#away) {
      if (now - habit.answeredAt >= ms) this.#away.delete(habit)
      else if (habit.pause < ms) images += habit.images
    }
    return images
  }
}
