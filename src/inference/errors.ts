/** The bundle cannot be served; the message is one sentence that names the file and what is wrong with it. */
export class BundleError extends Error {
  override name = 'BundleError'
}

/** More images are in flight than can be taken, or the service has no engine or is closing. Worth trying again later. */
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

/** An item for which the engine failed when it ran alone, after a retry. */
export class EngineFailedError extends Error {
  override name = 'EngineFailedError'
}

/** What an error says; whatever was thrown, as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
