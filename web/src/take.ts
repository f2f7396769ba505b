import { byId, plural } from './dom.ts'
import type { Notice } from './notice.ts'
import { bytesOf, type Snippet, snippet, toNpy } from './tokens.ts'

export interface Takeable {
  tokens: readonly number[]
  model: string
  codebookSize: number
  keyed: boolean
  /** Makes the page's address one that shows these tokens, and returns it. */
  link: () => string
}

/** Tokens to copy, to download and to share. */
export class Take {
  readonly #notice: Notice
  readonly #text = byId('snippet', HTMLTextAreaElement)
  #takeable: Takeable | undefined

  constructor(notice: Notice) {
    this.#notice = notice
    for (const radio of this.#radios) radio.addEventListener('change', () => this.#render())
    byId('copy', HTMLButtonElement).addEventListener('click', () => {
      void this.#copy(this.#text.value, `Copied ${plural(this.#takeable?.tokens.length ?? 0, 'token')}.`)
    })
    byId('share', HTMLButtonElement).addEventListener('click', () => {
      if (this.#takeable !== undefined) void this.#copy(this.#takeable.link(), 'Copied the link.')
    })
    byId('download', HTMLButtonElement).addEventListener('click', () => {
      if (this.#takeable === undefined) return
      const link = document.createElement('a')
      link.href = URL.createObjectURL(new Blob([toNpy(this.#takeable.tokens)], { type: 'application/x-npy' }))
      link.download = 'tokens.npy'
      link.click()
      URL.revokeObjectURL(link.href)
    })
  }

  show(takeable: Takeable): void {
    this.#takeable = takeable
    this.#render()
  }

  get #radios(): NodeListOf<HTMLInputElement> {
    return document.querySelectorAll<HTMLInputElement>('input[name="kind"]')
  }

  #render(): void {
    if (this.#takeable === undefined) return
    const { tokens, model, codebookSize, keyed } = this.#takeable
    const kind = [...this.#radios].find(({ checked }) => checked)?.value as Snippet
    this.#text.value = snippet(kind, tokens, { base: document.baseURI, model, keyed })
    const bytes = plural(bytesOf(tokens.length, codebookSize), 'byte')
    byId('take-note', HTMLElement).textContent = `${plural(tokens.length, 'token')}, ${bytes}.`
  }

  async #copy(text: string, done: string): Promise<void> {
    try {
      await copyText(text)
      this.#notice.say(done)
    } catch {
      // Otherwise the user copies by hand: the text is selected.
      if (text === this.#text.value) this.#text.select()
      this.#notice.say('The browser does not let this page copy. Copy it by hand, please.')
    }
  }
}

/** Pages without TLS have no clipboard, and some may not use it; the old command still works there. */
async function copyText(text: string): Promise<void> {
  try {
    return await navigator.clipboard.writeText(text)
  } catch {
    const area = document.createElement('textarea')
    area.value = text
    area.className = 'hidden'
    document.body.append(area)
    area.select()
    const copied = document.execCommand('copy')
    area.remove()
    if (!copied) throw new Error('not copied')
  }
}
