/** Pseudorandom numbers, the same for the same seed: mulberry32. */
export class Random {
  #state: number

  /** @param seed numbers that select a sequence, such as a run's seed and a request's index */
  constructor(...seed: number[]) {
    this.#state = seed.reduce((state, n) => Math.imul(state ^ n, 0x9e3779b1) + 0x7f4a7c15, 0x2545f491) | 0
  }

  /** From 0 to 1, never 1. */
  unit(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1)
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61)
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number from 0 to `n` - 1; 0 if `n` is 0. */
  below(n: number): number {
    return Math.floor(this.unit() * n)
  }

  /** @param items at least one */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T
  }

  /** True in one of `n` cases. */
  oneIn(n: number): boolean {
    return this.below(n) === 0
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.below(256)))
  }
}
