import { show } from './canvas.ts'
import type { Decoder } from './decoder.ts'
import { byId, plural } from './dom.ts'
import { Frames } from './frames.ts'
import type { Notice } from './notice.ts'

export interface Sequence {
  title: string
  tokens: readonly number[]
}

/** The head of one sequence and the tail of another, cut at the slider's position. */
export class Mix {
  readonly #decoder: Decoder
  readonly #notice: Notice
  readonly #slider = byId('cut', HTMLInputElement)
  #first: Sequence | undefined
  #second: Sequence | undefined
  #frames: Frames | undefined

  constructor(options: { decoder: Decoder; notice: Notice; onKeep: (mixed: Sequence) => void }) {
    this.#decoder = options.decoder
    this.#notice = options.notice
    this.#slider.addEventListener('input', () => {
      this.#frames?.want(this.#cut)
      this.#render()
    })
    byId('keep-mixed', HTMLButtonElement).addEventListener('click', () => {
      if (this.#first === undefined || this.#second === undefined) return
      const title = `${this.#first.title} and ${this.#second.title}, cut at ${this.#cut}`
      options.onKeep({ title, tokens: this.#sequence(this.#cut) })
    })
    this.#render()
  }

  get second(): Sequence | undefined {
    return this.#second
  }

  setFirst(first: Sequence): void {
    const { tokens } = this.#first ?? {}
    if (tokens?.length === first.tokens.length && tokens.every((id, i) => id === first.tokens[i])) return
    this.#first = first
    this.#start()
  }

  setSecond(second: Sequence): void {
    this.#second = second
    this.#start()
  }

  /** Tokens of the first. */
  get #cut(): number {
    return this.#slider.valueAsNumber
  }

  #sequence(cut: number): number[] {
    return [...(this.#first?.tokens.slice(0, cut) ?? []), ...(this.#second?.tokens.slice(cut) ?? [])]
  }

  #start(): void {
    this.#frames?.stop()
    this.#frames = undefined
    if (this.#first !== undefined && this.#second !== undefined) {
      const to = Math.min(this.#first.tokens.length, this.#second.tokens.length)
      this.#slider.max = String(to)
      this.#frames = new Frames({
        ...{ from: 0, to, along: [0, to], decode: this.#decoder.decode },
        batch: () => this.#decoder.batch,
        sequenceOf: (cut) => this.#sequence(cut),
        onFrames: () => this.#render(),
        onError: (error) => this.#notice.fail(error),
        onBusy: (busy) => this.#notice.busy(busy),
      })
      this.#frames.want(this.#cut)
    }
    this.#render()
  }

  #render(): void {
    const [first, second] = [this.#first?.title ?? 'First picture', this.#second?.title ?? 'Second picture']
    const to = Number(this.#slider.max)
    const cut = this.#cut
    byId('head-title', HTMLElement).textContent = first
    byId('tail-title', HTMLElement).textContent = second
    byId('head-note', HTMLElement).textContent = cut === 0 ? 'nothing of it' : `first ${plural(cut, 'token')}`
    byId('tail-note', HTMLElement).textContent = cut === to ? 'nothing of it' : `last ${plural(to - cut, 'token')}`
    const frame = this.#frames?.get(cut)
    byId('mixed-note', HTMLElement).textContent = frame || !this.#frames ? `cut at ${cut}` : 'decoding…'
    this.#slider.setAttribute('aria-valuetext', `first ${cut} of ${first}, last ${to - cut} of ${second}`)
    this.#slider.style.setProperty('--part', `${(cut / to) * 100}%`)
    byId('keep-mixed', HTMLButtonElement).disabled = this.#frames === undefined
    // Both wholes are cuts too.
    for (const [id, k, label] of [
      ['mixed', cut, `${first} up to token ${cut}, then ${second}`],
      ['head', to, first],
      ['tail', 0, second],
    ] as const) {
      const canvas = byId(id, HTMLCanvasElement)
      const picture = this.#frames?.get(k)
      canvas.setAttribute('aria-label', label)
      if (picture !== undefined) show(canvas, picture)
    }
  }
}
