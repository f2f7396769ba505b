/** The bundle cannot be served. The message is one sentence that names the file and what is wrong with it. */
export class BundleError extends Error {
  override name = 'BundleError'
}

/** Too many images are in flight, or the service has no engine or is closing. Try again later. */
export class QueueFullError extends Error {
  override name = 'QueueFullError'
  /** Seconds until there is likely to be room: a whole number, at least 1. */
  readonly retryAfter: number

  /** @param seconds until there is likely to be room, if known */
  constructor(message: string, seconds = 0) {
    super(message)
    this.retryAfter = Math.max(1, Math.ceil(seconds))
  }
}

/** The engine failed on this item by itself, and again after a retry. */
export class EngineFailedError extends Error {
  override name = 'EngineFailedError'
}

/** Something outside killed the engine: the kernel, if memory is short, or a person. Its batch need not be the cause. */
export class EngineKilledError extends Error {
  override name = 'EngineKilledError'
}

/** The message of an error, or any other thrown value as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
