import { byId, colour } from './dom.ts'

export interface EditorEvents {
  onSet: (position: number, id: number) => void
  onSwap: (a: number, b: number) => void
  onRestore: () => void
}

/** Gives the picked token another id, or swaps it with another token. Positions count from 1 on the page, from 0 here. */
export class Editor {
  readonly #id = byId('token-id', HTMLInputElement)
  readonly #with = byId('swap-with', HTMLInputElement)
  #picked: number | undefined
  /** The id that the picked token has. */
  #current: number | undefined

  constructor(codebookSize: number, { onSet, onSwap, onRestore }: EditorEvents) {
    this.#id.max = String(codebookSize - 1)
    const whenPicked = (act: (position: number) => void) => () => {
      if (this.#picked !== undefined) act(this.#picked)
    }
    const set = whenPicked((position) => {
      if (this.#id.reportValidity()) onSet(position, this.#id.valueAsNumber)
    })
    const swap = whenPicked((position) => {
      if (this.#with.reportValidity()) onSwap(position, this.#with.valueAsNumber - 1)
    })
    this.#id.addEventListener('change', set)
    byId('random', HTMLButtonElement).addEventListener(
      'click',
      whenPicked((position) => {
        const step = 1 + Math.floor(Math.random() * (codebookSize - 1))
        onSet(position, ((this.#current ?? 0) + step) % codebookSize)
      }),
    )
    byId('swap', HTMLButtonElement).addEventListener('click', swap)
    byId('restore', HTMLButtonElement).addEventListener('click', onRestore)
    byId('editor', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault()
      if (document.activeElement === this.#with) swap()
    })
  }

  /** Shows the picked token, if any, and whether there is something to undo. */
  show(tokens: readonly number[], encoded: readonly number[], picked: number | undefined): void {
    const before = { picked: this.#picked, id: this.#current }
    this.#picked = picked
    this.#current = picked === undefined ? undefined : tokens[picked]
    byId('editor-hint', HTMLElement).hidden = picked !== undefined
    byId('editor-tools', HTMLElement).hidden = picked === undefined
    byId('restore', HTMLButtonElement).hidden = tokens.every((id, i) => id === encoded[i])
    if (picked === undefined || this.#current === undefined) return
    byId('editor-name', HTMLElement).textContent = `Token ${picked + 1}`
    colour(byId('editor-chip', HTMLElement), this.#current)
    // Do not replace text while the user types.
    if (before.picked !== picked || before.id !== this.#current) this.#id.value = String(this.#current)
    this.#with.max = String(tokens.length)
  }

  /** Moves the keyboard focus to the id. */
  focus(): void {
    this.#id.focus({ preventScroll: true })
    this.#id.select()
  }
}
