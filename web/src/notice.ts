import { byId } from './dom.ts'

// Faster work needs no message.
const PATIENCE_MS = 400

/** Reports progress and errors, also to screen readers: a status line, a bar during work, an alert. */
export class Notice {
  readonly #status = byId('status', HTMLElement)
  readonly #bar = byId('progress', HTMLElement)
  readonly #alert = byId('alert', HTMLElement)
  readonly #alertText = byId('alert-text', HTMLElement)
  #working = 0

  constructor() {
    byId('alert-close', HTMLButtonElement).addEventListener('click', () => this.clear())
  }

  /** Announced once, with `polite` priority. */
  say(text: string): void {
    this.#status.textContent = text
  }

  /** Reports that something the user waited for has failed. */
  fail(error: unknown): void {
    this.#alertText.textContent = error instanceof Error ? error.message : String(error)
    this.#alert.hidden = false
  }

  /** Removes the last error. */
  clear(): void {
    this.#alert.hidden = true
    this.#alertText.textContent = ''
  }

  /** Shows the bar while work is in progress. */
  busy(busy: boolean): void {
    this.#working += busy ? 1 : -1
    this.#bar.hidden = this.#working === 0
  }

  /** Shows the bar while `work` lasts and, when that takes a while, what it is and for how long. */
  async during<T>(what: string, work: Promise<T>): Promise<T> {
    const start = Date.now()
    this.busy(true)
    let said = false
    const timer = setInterval(() => {
      const seconds = Math.round((Date.now() - start) / 1000)
      // Announced once to screen readers, then only shown.
      if (!said) this.say(what)
      said = true
      this.#status.dataset.elapsed = seconds < 2 ? '' : `${seconds} s`
    }, PATIENCE_MS)
    try {
      return await work
    } finally {
      clearInterval(timer)
      if (this.#status.textContent === what) this.say('')
      delete this.#status.dataset.elapsed
      this.busy(false)
    }
  }
}
