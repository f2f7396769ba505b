import { writeFileSync } from 'node:fs'
import { isatty } from 'node:tty'
import { type DestinationStream, type Logger, pino } from 'pino'

/** A line that cannot be written, as where the disk is full, is lost. pino's own stream would try again for ever. */
const standardOutput: DestinationStream = {
  write(line) {
    try {
      writeFileSync(1, line)
    } catch {}
  },
}

export type LogFormat = 'auto' | 'json' | 'text'

interface LogOptions {
  level: string
  /** `text` is for people, `json` for programs; `auto` is text where standard output is a terminal. */
  format?: LogFormat
  destination?: DestinationStream
}

/** The log, a line an event. Libraries may log a request's headers, and with them its key: they are left out. */
export function createLog({ level, format = 'json', destination = standardOutput }: LogOptions): Logger {
  const asText = format === 'text' || (format === 'auto' && isatty(1))
  const lines = asText ? { write: (line: string) => destination.write(textOf(JSON.parse(line))) } : destination
  return pino({ level, redact: { paths: ['headers', '*.headers'], remove: true } }, lines)
}

/** A line of the log for people: when, how grave, what, and whatever else is known. */
function textOf({ time, level, msg, pid, hostname, ...fields }: Record<string, unknown>): string {
  const message = String(msg ?? '')
  // A command to paste stands alone.
  if (message.startsWith('try: ')) return `\n    ${message.slice('try: '.length)}\n\n`
  const clock = new Date(Number(time)).toLocaleTimeString('en-GB')
  const rest = Object.entries(fields).map(([name, value]) => ` ${name}=${shown(value)}`)
  return `${clock} ${pino.levels.labels[Number(level)]?.padEnd(5)} ${message}${rest.join('')}\n`
}

function shown(value: unknown): string {
  if (value instanceof Object && 'message' in value) return JSON.stringify(value.message)
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  // A digest is known by its beginning.
  if (/^[0-9a-f]{64}$/.test(text)) return text.slice(0, 12)
  return /[\s"]/.test(text) && typeof value === 'string' ? JSON.stringify(text) : text
}

/** Turns the log to `debug` and, called again, back to the level that was configured. */
export function toggleDebug(log: Logger, configured: string): void {
  log.level = log.level === configured ? 'debug' : configured
  log.warn({ now: log.level }, 'log level changed')
}
