import { writeFileSync } from 'node:fs'
import { isatty } from 'node:tty'
import { type DestinationStream, type Logger, pino } from 'pino'

/** Drops a line that cannot be written, for example because the disk is full. pino's own stream would retry forever. */
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

/** The log, one line per event. Request headers are removed: libraries may log them, and they contain API keys. */
export function createLog({ level, format = 'json', destination = standardOutput }: LogOptions): Logger {
  const asText = format === 'text' || (format === 'auto' && isatty(1))
  const lines = asText ? { write: (line: string) => destination.write(textOf(JSON.parse(line))) } : destination
  return pino({ level, redact: { paths: ['headers', '*.headers'], remove: true } }, lines)
}

/** A log line for people: time, level, message, and all other fields. */
function textOf({ time, level, msg, pid, hostname, ...fields }: Record<string, unknown>): string {
  const message = String(msg ?? '')
  // A command to paste gets its own line.
  if (message.startsWith('try: ')) return `\n    ${message.slice('try: '.length)}\n\n`
  const clock = new Date(Number(time)).toLocaleTimeString('en-GB')
  const rest = Object.entries(fields).map(([name, value]) => ` ${name}=${shown(value)}`)
  return `${clock} ${pino.levels.labels[Number(level)]?.padEnd(5)} ${message}${rest.join('')}\n`
}

function shown(value: unknown): string {
  if (value instanceof Object && 'message' in value) return JSON.stringify(value.message)
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  // The beginning of a digest is enough to recognise it.
  if (/^[0-9a-f]{64}$/.test(text)) return text.slice(0, 12)
  return /[\s"]/.test(text) && typeof value === 'string' ? JSON.stringify(text) : text
}

/** Switches the log to `debug`, or back to the configured level. */
export function toggleDebug(log: Logger, configured: string): void {
  log.level = log.level === configured ? 'debug' : configured
  log.warn({ now: log.level }, 'log level changed')
}
