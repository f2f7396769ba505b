import type { WriteStream } from 'node:tty'

/** How far a run is. */
export interface Reached {
  /** Images behind, and how many of them failed. */
  images: number
  errors: number
  /** How much of `size` is behind. */
  done: number
}

const DRAW_MS = 200
const LINE_MS = 10_000
/** The pace is that of the last half minute. */
const WINDOW_MS = 30_000

/** Shows how far a run is: a line that changes on a terminal, a new line every ten seconds elsewhere. */
export class Progress {
  readonly #size: { unit: 'images' | 'bytes'; count: number }
  readonly #stream: Pick<WriteStream, 'isTTY' | 'columns' | 'write'>
  readonly #timer: NodeJS.Timeout
  readonly #seen: { at: number; images: number; done: number }[] = []
  #reached: Reached | undefined

  constructor(size: { unit: 'images' | 'bytes'; count: number }, stream: WriteStream = process.stderr) {
    this.#size = size
    this.#stream = stream
    this.#timer = setInterval(() => this.#draw(), stream.isTTY ? DRAW_MS : LINE_MS).unref()
  }

  /** The first call says where the run begins; only what follows counts for its pace. */
  update(reached: Reached): void {
    const begins = this.#reached === undefined
    this.#reached = reached
    if (begins) this.#see(reached)
  }

  /** Writes a line of text above the progress. */
  say(line: string): void {
    this.#stream.write(this.#stream.isTTY ? `\r\u001b[K${line}\n` : `${line}\n`)
  }

  stop(): void {
    clearInterval(this.#timer)
    if (this.#stream.isTTY) this.#stream.write('\r\u001b[K')
  }

  #see({ images, done }: Reached): void {
    const now = performance.now()
    this.#seen.push({ at: now, images, done })
    while (this.#seen.length > 2 && now - (this.#seen[0]?.at ?? now) > WINDOW_MS) this.#seen.shift()
  }

  #draw(): void {
    if (this.#reached === undefined) return
    this.#see(this.#reached)
    const { images, done } = this.#reached
    const [first] = this.#seen as [{ at: number; images: number; done: number }]
    const seconds = (performance.now() - first.at) / 1000
    const line = progressLine(this.#size, this.#reached, {
      images: (images - first.images) / seconds,
      done: (done - first.done) / seconds,
    })
    if (this.#stream.isTTY) this.#stream.write(`\r\u001b[K${line.slice(0, (this.#stream.columns ?? 80) - 1)}`)
    else this.#stream.write(`${line}\n`)
  }
}

/** Images done, their number or the share of the bytes, images/s, time left, errors. */
export function progressLine(
  { unit, count }: { unit: 'images' | 'bytes'; count: number },
  { images, errors, done }: Reached,
  pace: { images: number; done: number },
): string {
  const whole = (value: number) => value.toLocaleString('en-US')
  const share = `${Math.floor((done / count) * 100)} %`
  const of = unit === 'images' ? `/${whole(count)} images (${share})` : ` images (${share} of the bytes)`
  const left = pace.done > 0 ? `, ${duration((count - done) / pace.done)} left` : ''
  const failed = `, ${whole(errors)} ${errors === 1 ? 'error' : 'errors'}`
  return `${whole(images)}${of}, ${pace.images.toFixed(1)} images/s${left}${failed}`
}

/** Seconds as people say them: 40 s, 5 min 2 s, 3 h 12 min. */
function duration(seconds: number): string {
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}
