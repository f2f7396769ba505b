import type { FastifyBaseLogger } from 'fastify'

// npm passes on a signal that its whole process group has got already, and so may others: that is no second request.
const SAME_REQUEST_MS = 3000

/** Why the process ends: it was told to, or something failed that nobody caught. */
export type Cause = { signal: NodeJS.Signals } | { error: unknown }

/**
 * Ends the process gracefully, once: with exit code 0 when a signal asks for it, with 1 after an error that nobody caught.
 * Repeated signals do not cut the end short, except Ctrl-C pressed again after three seconds.
 *
 * @param end closes everything; the process exits when it is done
 */
export function endGracefully(log: FastifyBaseLogger, end: (cause: Cause) => Promise<void>): void {
  let began: number | undefined

  const begin = (cause: Cause) => {
    began = performance.now()
    end(cause).then(
      () => process.exit('error' in cause ? 1 : 0),
      (error) => {
        log.error({ err: error }, 'could not end gracefully')
        process.exit(1)
      },
    )
  }
  const fail = (error: unknown) => {
    if (began === undefined) return begin({ error })
    log.fatal({ err: error }, 'failed while ending')
    process.exit(1)
  }
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (began === undefined) return begin({ signal })
      if (signal !== 'SIGINT' || performance.now() - began < SAME_REQUEST_MS) return
      log.warn('interrupted again: ending at once')
      process.exit(1)
    })
  }
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)
}
