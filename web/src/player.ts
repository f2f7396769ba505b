// Time to play from one token to all of them.
const DURATION_MS = 6000

/** Increases k from 1 to `to`. Every doubling takes the same time, since the first tokens carry the most. */
export class Player {
  readonly #onStep: (k: number) => void
  readonly #onEnd: () => void
  readonly #isReady: (k: number) => boolean
  #frame = 0

  /**
   * @param options.isReady whether k can be shown; playing waits for it
   * @param options.onEnd called when it has reached the end or was stopped
   */
  constructor(options: { isReady: (k: number) => boolean; onStep: (k: number) => void; onEnd: () => void }) {
    this.#isReady = options.isReady
    this.#onStep = options.onStep
    this.#onEnd = options.onEnd
  }

  get playing(): boolean {
    return this.#frame !== 0
  }

  start(to: number): void {
    this.stop()
    let progress = 0
    let before = performance.now()
    let shown = 0
    const step = (now: number) => {
      this.#frame = requestAnimationFrame(step)
      const next = Math.min(progress + (now - before) / DURATION_MS, 1)
      before = now
      const k = Math.round(to ** next)
      if (!this.#isReady(k)) return
      progress = next
      if (k !== shown) this.#onStep(k)
      shown = k
      if (progress === 1) this.stop()
    }
    this.#frame = requestAnimationFrame(step)
  }

  stop(): void {
    if (!this.playing) return
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
    this.#onEnd()
  }
}
