import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** An answer as it was received. */
export interface RawAnswer {
  status: number
  headers: Record<string, string>
  body: Buffer
}

export interface Exchange {
  answers: RawAnswer[]
  /** Whether the server closed the connection. */
  closed: boolean
  seconds: number
}

export interface ExchangeOptions {
  /** Milliseconds between the pieces. */
  pause?: number
  /** Closes the sending half after the last piece. */
  half?: boolean
  /** Number of answers after which to stop waiting, not counting 100 Continue. */
  until?: number
  /** Seconds after which to stop waiting in any case. */
  most?: number
  /** Whether the requests are HEAD, so that the answers have no body. */
  head?: boolean
}

/** Sends bytes over a connection of their own, piece by piece, and reads what comes back until it is closed. */
export async function exchange(
  url: string,
  pieces: (string | Buffer)[],
  { pause = 0, half = false, until = 1, most = 10, head = false }: ExchangeOptions = {},
): Promise<Exchange> {
  const { hostname, port } = new URL(url)
  const start = performance.now()
  const socket = connect(Number(port), hostname)
  const chunks: Buffer[] = []
  const answers = () => parseAnswers(Buffer.concat(chunks), head)
  const over = new Promise<boolean>((resolve) => {
    socket.on('data', (chunk) => {
      chunks.push(chunk)
      if (answers().filter(({ status }) => status >= 200).length >= until) resolve(false)
    })
    socket.on('end', () => resolve(true))
    socket.on('close', () => resolve(true))
    socket.on('error', () => resolve(true))
    setTimeout(() => resolve(false), most * 1000).unref()
  })
  for (const [i, piece] of pieces.entries()) {
    if (i > 0 && pause > 0) await Promise.race([sleep(pause), over])
    if (!socket.writable) break
    socket.write(piece)
  }
  if (half) socket.end()
  const closed = await over
  socket.destroy()
  return { answers: answers(), closed, seconds: (performance.now() - start) / 1000 }
}

/** The complete answers. */
function parseAnswers(bytes: Buffer, head: boolean): RawAnswer[] {
  const answers: RawAnswer[] = []
  for (let at = 0; ; ) {
    const end = bytes.indexOf('\r\n\r\n', at)
    if (end < 0) return answers
    const [first = '', ...lines] = bytes.toString('latin1', at, end).split('\r\n')
    const status = Number(first.split(' ')[1])
    const headers = Object.fromEntries(
      lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    )
    const start = end + 4
    const bodiless = head || status < 200 || status === 204 || status === 304
    const length = bodiless ? 0 : Number(headers['content-length'] ?? 0)
    const chunked = !bodiless && headers['transfer-encoding'] === 'chunked'
    // Only answers without content come in chunks here.
    const next = chunked ? bytes.indexOf('0\r\n\r\n', start) + 5 : start + length
    if (next > bytes.length || next < start) return answers
    answers.push({ status, headers, body: bytes.subarray(start, start + length) })
    at = next
  }
}
