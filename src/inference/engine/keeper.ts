import { setTimeout as sleep } from 'node:timers/promises'
import type { Engine, EngineEnd } from './engine.ts'

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 10_000

export interface KeeperHooks {
  /** Called when an engine is loaded and warm. */
  up(engine: Engine): void
  /** Called when that engine has ended. */
  down(engine: Engine, end: EngineEnd): void
  /** Called when a replacement did not start; another start will follow. */
  failed(error: Error): void
}

/**
 * Keeps one engine running. An engine that answered at least one batch before it ended is replaced at once. As long as
 * engines end without answering any, the pause before the next start doubles, from 100 ms to 10 s.
 */
export class EngineKeeper {
  readonly #closing = new AbortController()
  readonly #start: () => Promise<Engine>
  readonly #hooks: KeeperHooks
  readonly #loop: Promise<void>
  #engine: Engine

  constructor(first: Engine, start: () => Promise<Engine>, hooks: KeeperHooks) {
    this.#engine = first
    this.#start = start
    this.#hooks = hooks
    this.#loop = this.#keep()
  }

  /** Ends the engine and does not replace it. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#engine.close()
    await this.#loop
  }

  async #keep(): Promise<void> {
    const { signal } = this.#closing
    let failures = 0
    while (!signal.aborted) {
      this.#hooks.up(this.#engine)
      const end = await this.#engine.ended
      if (signal.aborted) return
      this.#hooks.down(this.#engine, end)
      failures = this.#engine.answered > 0 ? 0 : failures + 1
      for (let replaced = false; !replaced; ) {
        const pause = failures === 0 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS)
        await sleep(pause, undefined, { signal }).catch(() => {})
        if (signal.aborted) return
        try {
          this.#engine = await this.#start()
          replaced = true
        } catch (error) {
          failures++
          this.#hooks.failed(error instanceof Error ? error : new Error(String(error)))
        }
      }
    }
    await this.#engine.close()
  }
}
