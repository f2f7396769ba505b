import type { Info } from './api.ts'
import { clear, pixelsOf, show } from './canvas.ts'
import type { Decoder } from './decoder.ts'
import { byId, decibels, fileSize, plural } from './dom.ts'
import { Editor } from './editor.ts'
import { Frames } from './frames.ts'
import type { Photo } from './gallery.ts'
import type { Notice } from './notice.ts'
import { difference, grey, type Picture, psnr } from './pixels.ts'
import { Player } from './player.ts'
import { Strip } from './strip.ts'
import { bytesOf } from './tokens.ts'
import { bestWithin, type Thumbnail, thumbnailsOf } from './webp.ts'

/** The content of the stage. */
export interface Subject {
  title: string
  /** As the service encoded it, or as they came by link. */
  tokens: readonly number[]
  /** The picture as the model sees it, if there is one and the browser can show it. */
  original?: { canvas: HTMLCanvasElement; bytes: number }
  photo?: Photo
}

// Always the same, so that the map darkens as the picture grows.
const MISSING_SCALE = 128
const calm = matchMedia('(prefers-reduced-motion: reduce)')

/** The original next to its reconstruction: from how many tokens, what each token changes, and a WebP of the same size. */
export class Stage {
  readonly #decoder: Decoder
  readonly #info: Info
  readonly #notice: Notice
  readonly #onChange: () => void
  /** Whether a part of the tokens can be decoded. */
  readonly #grows: boolean
  readonly #slider = byId('shown', HTMLInputElement)
  readonly #play = byId('play', HTMLButtonElement)
  readonly #strip: Strip
  readonly #editor: Editor
  readonly #player: Player
  #subject: Subject = { title: '', tokens: [] }
  #tokens: number[] = []
  #shown = 0
  #pixels: Picture | undefined
  #frames: Frames | undefined
  /** For models whose prefixes do not decode: the whole sequence with another token at one position. */
  #others: Frames | undefined
  #thumbnails: Thumbnail[] | undefined | 'unknown' | 'impossible'
  #weighing = new AbortController()
  #peeked: number | undefined
  #picked: number | undefined

  constructor(options: { decoder: Decoder; info: Info; notice: Notice; onChange: () => void }) {
    const { decoder, info, notice, onChange } = options
    this.#decoder = decoder
    this.#info = info
    this.#notice = notice
    this.#onChange = onChange
    this.#grows = info.prefixes && info.kind === 'causal'
    this.#strip = new Strip(byId('strip', HTMLElement), {
      onPeek: (position) => this.#peek(position),
      onPick: (position, byKey) => this.#pick(position, byKey),
    })
    this.#editor = new Editor(info.codebook.size, {
      onSet: (position, id) => this.#edit(this.#tokens.with(position, id), position),
      onSwap: (a, b) => {
        const [first, second] = [this.#tokens[a], this.#tokens[b]] as [number, number]
        this.#edit(this.#tokens.with(a, second).with(b, first), Math.min(a, b), Math.max(a, b))
      },
      onRestore: () => {
        const from = this.#tokens.findIndex((id, i) => id !== this.#subject.tokens[i])
        if (from >= 0) this.#edit([...this.#subject.tokens], from)
      },
    })
    this.#player = new Player({
      isReady: (k) => this.#frames?.get(k) !== undefined,
      onStep: (k) => this.#showFirst(k),
      onEnd: () => this.#labelPlay(),
    })
    this.#slider.addEventListener('input', () => {
      this.#player.stop()
      this.#showFirst(this.#slider.valueAsNumber)
    })
    this.#play.addEventListener('click', () => {
      if (this.#player.playing) {
        this.#player.stop()
        return
      }
      this.#notice.clear()
      this.#grow()
    })
    this.#explain()
  }

  get subject(): Subject {
    return this.#subject
  }

  /** The tokens with their edits. */
  get tokens(): readonly number[] {
    return this.#tokens
  }

  /** How many of them are shown. */
  get shown(): number {
    return this.#shown
  }

  /** Puts something on the stage: grown from its first token, or at once where `shown` says how much of it. */
  open(subject: Subject, shown?: number): void {
    const length = subject.tokens.length
    this.#player.stop()
    this.#subject = subject
    this.#pixels = subject.original && pixelsOf(subject.original.canvas)
    this.#picked = undefined
    this.#slider.max = String(length)
    this.#load([...subject.tokens])
    const grow = shown === undefined && this.#grows && !calm.matches
    this.#shown = grow ? 1 : this.#grows ? (shown ?? length) : length
    clear(byId('picture', HTMLCanvasElement))
    this.#weigh()
    if (grow) this.#grow()
    this.#wantShown()
    if (this.#grows) this.#frames?.fill()
    this.#render()
    this.#onChange()
  }

  /** The picture of all tokens, as far as it is decoded. */
  get whole(): Picture | undefined {
    return this.#frames?.get(this.#tokens.length)
  }

  /** Explains a missing slider, and describes only what the model can do. */
  #explain(): void {
    byId('controls', HTMLElement).hidden = !this.#grows
    const hint = byId('no-prefix', HTMLElement)
    hint.hidden = this.#grows
    if (this.#grows) return
    byId('title', HTMLElement).textContent = 'A picture in a few tokens'
    byId('lede', HTMLElement).textContent =
      'A photo becomes a short row of tokens, and all of them together become a picture again. Change one and see what it stood for.'
    byId('mix-lede', HTMLElement).textContent = 'The first tokens of one picture, the last of another.'
    hint.textContent =
      this.#info.kind === 'parallel'
        ? 'No slider here: this model makes its tokens side by side, in no order, so the first few mean nothing without the others.'
        : 'No slider here: this model’s decoder takes whole sequences only, so the first few tokens alone are no picture.'
  }

  #load(tokens: number[], same = 0): void {
    const before = this.#frames
    before?.stop()
    this.#others?.stop()
    this.#tokens = tokens
    const { length } = tokens
    this.#frames = this.#framesOf(this.#grows ? 1 : length, length, (k) => tokens.slice(0, k))
    if (before !== undefined) this.#frames.adopt(before, same)
    const { size } = this.#info.codebook
    this.#others = this.#framesOf(0, length - 1, (i) => tokens.with(i, ((tokens[i] as number) + (size >> 1)) % size))
    this.#strip.set(tokens, this.#subject.tokens)
  }

  #framesOf(from: number, to: number, sequenceOf: (k: number) => number[]): Frames {
    const frames: Frames = new Frames({
      ...{ from, to, sequenceOf, decode: this.#decoder.decode },
      batch: () => this.#decoder.batch,
      onFrames: () => {
        this.#wantPeeked()
        this.#render()
        this.#onChange()
      },
      onError: (error) => {
        this.#player.stop()
        this.#notice.fail(error)
      },
      onBusy: (busy) => this.#notice.busy(busy),
    })
    return frames
  }

  #grow(): void {
    this.#frames?.fill()
    this.#player.start(this.#tokens.length)
    this.#labelPlay()
  }

  #labelPlay(): void {
    this.#play.classList.toggle('playing', this.#player.playing)
    ;(this.#play.querySelector('b') as HTMLElement).textContent = this.#player.playing ? 'Pause' : 'Play'
  }

  #showFirst(k: number): void {
    this.#shown = k
    this.#wantShown()
    this.#render()
    this.#onChange()
  }

  #wantShown(): void {
    this.#frames?.want(this.#shown)
  }

  #edit(tokens: number[], from: number, last = from): void {
    this.#player.stop()
    this.#notice.clear()
    this.#load(tokens, this.#grows ? from : 0)
    // The edit must be visible.
    this.#shown = Math.max(this.#shown, last + 1)
    this.#wantShown()
    if (this.#grows) this.#frames?.fill()
    this.#render()
    this.#onChange()
  }

  #peek(position: number | undefined): void {
    this.#peeked = position
    this.#wantPeeked()
    this.#renderChange()
  }

  #pick(position: number, byKey: boolean): void {
    this.#picked = position
    this.#wantPeeked()
    this.#render()
    if (byKey) this.#editor.focus()
  }

  /** The token whose change is shown. */
  get #position(): number | undefined {
    return this.#peeked ?? this.#picked
  }

  #wantPeeked(): void {
    const position = this.#position
    if (position === undefined) return
    const { before, after } = this.#around(position)
    if (!this.#grows) this.#others?.want(position)
    else if (after === undefined) this.#frames?.want(position + 1)
    else if (before === undefined) this.#frames?.want(position)
  }

  /** The picture without a token, and with it. */
  #around(position: number): { before: Picture | undefined; after: Picture | undefined } {
    if (!this.#grows) return { before: this.#others?.get(position), after: this.whole }
    const size = this.#info.imageSize
    return {
      before: position === 0 ? grey(size, size) : this.#frames?.get(position),
      after: this.#frames?.get(position + 1),
    }
  }

  /** Makes the WebP files to compare with. */
  #weigh(): void {
    this.#weighing.abort()
    this.#weighing = new AbortController()
    const { signal } = this.#weighing
    this.#thumbnails = 'unknown'
    const { original, tokens } = this.#subject
    if (original === undefined) return
    const most = bytesOf(tokens.length, this.#info.codebook.size)
    thumbnailsOf(original.canvas, most, signal).then(
      (thumbnails) => {
        if (signal.aborted) return
        this.#thumbnails = thumbnails ?? 'impossible'
        this.#renderWebp()
      },
      (error) => {
        if (!signal.aborted) this.#notice.fail(error)
      },
    )
  }

  #render(): void {
    const { original, photo } = this.#subject
    const originalCanvas = byId('original', HTMLCanvasElement)
    if (this.#pixels === undefined) clear(originalCanvas)
    else show(originalCanvas, this.#pixels)
    originalCanvas.setAttribute('aria-label', `Original: ${this.#subject.title}`)
    byId('original-title', HTMLElement).textContent = original ? `Original, ${fileSize(original.bytes)}` : 'No original'
    byId('original-note', HTMLElement).textContent = original
      ? photo
        ? `${photo.title}: ${photo.credit}`
        : this.#subject.title
      : this.#subject.title

    const picture = this.#frames?.get(this.#shown)
    const { length } = this.#tokens
    const bytes = fileSize(bytesOf(this.#shown, this.#info.codebook.size))
    const measured = picture && this.#pixels && decibels(psnr(this.#pixels, picture))
    const count = this.#shown === length ? plural(length, 'token') : `${this.#shown} of ${plural(length, 'token')}`
    const canvas = byId('picture', HTMLCanvasElement)
    if (picture !== undefined) show(canvas, picture)
    canvas.parentElement?.classList.toggle('waiting', picture === undefined)
    canvas.setAttribute('aria-label', `${this.#subject.title} from ${count}`)
    byId('picture-title', HTMLElement).textContent = `${count}, ${bytes}`
    byId('picture-note', HTMLElement).textContent = picture ? (measured ?? '') : 'decoding…'
    byId('count', HTMLElement).textContent = `${this.#shown} / ${length}`
    this.#slider.value = String(this.#shown)
    this.#slider.setAttribute('aria-valuetext', [count, bytes, ...(measured ? [measured] : [])].join(', '))
    const part = (k: number) => `${(Math.max(0, k - 1) / Math.max(1, length - 1)) * 100}%`
    this.#slider.style.setProperty('--part', part(this.#shown))
    this.#slider.style.setProperty('--ready', part(this.#frames?.ready ?? 0))
    this.#strip.light(this.#shown)
    this.#strip.mark(this.#picked)
    this.#editor.show(this.#tokens, this.#subject.tokens, this.#picked)
    this.#renderWebp()
    this.#renderChange()
  }

  #renderWebp(): void {
    const canvas = byId('webp', HTMLCanvasElement)
    const budget = bytesOf(this.#shown, this.#info.codebook.size)
    const say = (title: string, note: string) => {
      byId('webp-title', HTMLElement).textContent = title
      byId('webp-note', HTMLElement).textContent = note
    }
    const thumbnails = this.#thumbnails
    const best = Array.isArray(thumbnails) ? bestWithin(thumbnails, budget) : undefined
    if (best !== undefined) {
      show(canvas, best.picture)
      say(`WebP, ${fileSize(best.bytes)}`, `${decibels(best.psnr)}, ${best.side} × ${best.side}`)
    } else {
      clear(canvas)
      if (thumbnails === 'impossible') say('WebP of as many bytes', 'This browser cannot write WebP')
      else if (Array.isArray(thumbnails)) say(`WebP of ${fileSize(budget)}`, 'There is none so small')
      else say('WebP of as many bytes', this.#subject.original ? 'measuring…' : 'Needs the original')
    }
    canvas.setAttribute(
      'aria-label',
      best ? `WebP file of ${best.bytes} bytes, scaled up` : 'No WebP file of as many bytes',
    )
  }

  #renderChange(): void {
    const position = this.#position
    const canvas = byId('change', HTMLCanvasElement)
    const title = byId('change-title', HTMLElement)
    const note = byId('change-note', HTMLElement)
    if (position === undefined) {
      this.#renderMissing(canvas, title, note)
      return
    }
    const { before, after } = this.#around(position)
    title.textContent = `What token ${position + 1} changes`
    canvas.parentElement?.classList.toggle('waiting', before === undefined || after === undefined)
    if (before === undefined || after === undefined) {
      note.textContent = 'decoding…'
      return
    }
    const { data, largest } = difference(before, after)
    show(canvas, { width: after.width, height: after.height, data })
    const from = !this.#grows ? ' from another id' : position === 0 ? ' from plain grey' : ''
    const gain =
      this.#grows && this.#pixels && position > 0
        ? `, ${signed(psnr(this.#pixels, after) - psnr(this.#pixels, before))}`
        : ''
    note.textContent = `id ${this.#tokens[position]}: up to ${Math.round(largest)} levels${from}${gain}`
    canvas.setAttribute('aria-label', `Map of what token ${position + 1} changes: ${note.textContent}`)
  }

  /** Shown while no token is pointed at: how much the picture differs from the original. */
  #renderMissing(canvas: HTMLCanvasElement, title: HTMLElement, note: HTMLElement): void {
    const picture = this.#frames?.get(this.#shown)
    canvas.parentElement?.classList.toggle('waiting', picture === undefined)
    note.textContent = 'Point at a token to see what it changes'
    if (this.#pixels === undefined) {
      clear(canvas)
      title.textContent = 'What a token changes'
      canvas.setAttribute('aria-label', 'No token is pointed at')
      return
    }
    title.textContent = 'What is still missing'
    canvas.setAttribute('aria-label', 'Map of where picture and original differ')
    if (picture === undefined) return
    const { data } = difference(this.#pixels, picture, MISSING_SCALE)
    show(canvas, { width: picture.width, height: picture.height, data })
  }
}

function signed(db: number): string {
  return `${db < 0 ? '−' : '+'}${Math.abs(db).toFixed(2)} dB`
}
