import type { FastifyBaseLogger } from 'fastify'

// npm forwards a signal that its whole process group has already received. Such a repeat is not a second request.
const SAME_REQUEST_MS = 3000

/** Why the process ends: a signal, or an error that nothing caught. */
export type Cause = { signal: NodeJS.Signals } | { error: unknown }

/**
 * Shuts the process down gracefully: with exit code 0 after a signal, with 1 after an error that nothing caught. Repeated
 * signals do not cut this short, except a second Ctrl-C after three seconds.
 *
 * @param end closes everything; the process exits when it has finished
 */
export function endGracefully(log: FastifyBaseLogger, end: (cause: Cause) => Promise<void>): void {
  let began: number | undefined

  const begin = (cause: Cause) => {
    began = performance.now()
    end(cause).then(
      () => process.exit('error' in cause ? 1 : 0),
      (error) => {
        log.error({ err: error }, 'could not shut down gracefully')
        process.exit(1)
      },
    )
  }
  const fail = (error: unknown) => {
    if (began === undefined) return begin({ error })
    log.fatal({ err: error }, 'failed while shutting down')
    process.exit(1)
  }
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (began === undefined) return begin({ signal })
      if (signal !== 'SIGINT' || performance.now() - began < SAME_REQUEST_MS) return
      log.warn('interrupted again: exiting at once')
      process.exit(1)
    })
  }
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)
}
