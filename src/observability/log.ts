import { writeFileSync } from 'node:fs'
import { type DestinationStream, type Logger, pino } from 'pino'

/** A line that cannot be written, as where the disk is full, is lost. pino's own stream would try again for ever. */
const standardOutput: DestinationStream = {
  write(line) {
    try {
      writeFileSync(1, line)
    } catch {}
  },
}

/** The log, as lines of JSON. Libraries may log a request's headers, and with them its key: they are left out. */
export function createLog(level: string, destination: DestinationStream = standardOutput): Logger {
  return pino({ level, redact: { paths: ['headers', '*.headers'], remove: true } }, destination)
}

/** Turns the log to `debug` and, called again, back to the level that was configured. */
export function toggleDebug(log: Logger, configured: string): void {
  log.level = log.level === configured ? 'debug' : configured
  log.warn({ now: log.level }, 'log level changed')
}
