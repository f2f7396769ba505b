/** The bundle cannot be served; the message is one sentence that names the file and what is wrong with it. */
export class BundleError extends Error {
  override name = 'BundleError'
}

/** More images are in flight than the queue's bound allows, or the service is closing. Worth trying again later. */
export class QueueFullError extends Error {
  override name = 'QueueFullError'
}

/** An item for which the engine failed when it ran alone, after a retry. */
export class EngineFailedError extends Error {
  override name = 'EngineFailedError'
}
