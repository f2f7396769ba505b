import { colour } from './dom.ts'

export interface StripEvents {
  /** A token is pointed at or has the focus; undefined when none is any more. */
  onPeek: (position: number | undefined) => void
  /** A token was clicked, or entered by the keyboard. */
  onPick: (position: number, byKey: boolean) => void
}

/** The tokens in order, each a button in the colour of its id. One stop of the Tab key; arrows move inside. */
export class Strip {
  readonly #root: HTMLElement
  #cells: HTMLButtonElement[] = []

  constructor(root: HTMLElement, events: StripEvents) {
    this.#root = root
    const positionOf = (target: EventTarget | null) => {
      const at = target instanceof HTMLButtonElement ? this.#cells.indexOf(target) : -1
      return at < 0 ? undefined : at
    }
    // A finger does not hover: its tap is a click.
    root.addEventListener('pointerover', ({ target, pointerType }) => {
      if (pointerType !== 'touch') events.onPeek(positionOf(target))
    })
    root.addEventListener('pointerleave', () => events.onPeek(undefined))
    root.addEventListener('focusin', ({ target }) => {
      const at = positionOf(target)
      if (at === undefined) return
      this.#makeStop(at)
      if ((target as HTMLElement).matches(':focus-visible')) events.onPeek(at)
    })
    root.addEventListener('focusout', () => events.onPeek(undefined))
    root.addEventListener('click', ({ target, detail }) => {
      const at = positionOf(target)
      if (at !== undefined) events.onPick(at, detail === 0)
    })
    root.addEventListener('keydown', (event) => this.#move(event, positionOf(event.target)))
  }

  /** Shows these tokens. Those that differ from `encoded` are marked as edited. */
  set(tokens: readonly number[], encoded: readonly number[]): void {
    if (this.#cells.length !== tokens.length) {
      this.#cells = tokens.map(() => {
        const cell = document.createElement('button')
        cell.type = 'button'
        cell.tabIndex = -1
        // Read out with the token that has the focus.
        cell.setAttribute('aria-describedby', 'change-note')
        return cell
      })
      this.#root.replaceChildren(...this.#cells)
      this.#makeStop(0)
    }
    for (const [i, id] of tokens.entries()) {
      const cell = this.#cells[i] as HTMLButtonElement
      const edited = id !== encoded[i]
      colour(cell, id)
      cell.classList.toggle('edited', edited)
      cell.setAttribute('aria-label', `Token ${i + 1}: id ${id}${edited ? ', edited' : ''}`)
    }
  }

  /** Marks the first `shown` tokens, from which the picture is decoded. */
  light(shown: number): void {
    for (const [i, cell] of this.#cells.entries()) cell.classList.toggle('off', i >= shown)
  }

  /** Marks the token that is picked. */
  mark(picked: number | undefined): void {
    for (const [i, cell] of this.#cells.entries()) cell.setAttribute('aria-pressed', String(i === picked))
  }

  #makeStop(at: number): void {
    for (const [i, cell] of this.#cells.entries()) cell.tabIndex = i === at ? 0 : -1
  }

  #move(event: KeyboardEvent, from: number | undefined): void {
    if (from === undefined) return
    const top = this.#cells[0]?.offsetTop
    const columns = this.#cells.filter(({ offsetTop }) => offsetTop === top).length
    const last = this.#cells.length - 1
    const to = {
      ArrowLeft: from - 1,
      ArrowRight: from + 1,
      ArrowUp: from - columns,
      ArrowDown: from + columns,
      Home: 0,
      End: last,
    }[event.key]
    if (to === undefined) return
    event.preventDefault()
    this.#cells[Math.min(Math.max(to, 0), last)]?.focus()
  }
}
