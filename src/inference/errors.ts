/** The bundle cannot be served; the message is one sentence that names the file and what is wrong with it. */
export class BundleError extends Error {
  override name = 'BundleError'
}

/** Too many images are in flight, or the service has no engine or is closing. Try again later. */
export class QueueFullError extends Error {
  override name = 'QueueFullError'
  /** Whole seconds, at least 1, after which there is likely to be room. */
  readonly retryAfter: number

  /** @param seconds until there is likely to be room, as far as is known */
  constructor(message: string, seconds = 0) {
    super(message)
    this.retryAfter = Math.max(1, Math.ceil(seconds))
  }
}

/** The engine failed on this item, alone and after a retry. */
export class EngineFailedError extends Error {
  override name = 'EngineFailedError'
}

/** What an error says; whatever was thrown, as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
