import { availableParallelism } from 'node:os'

// libuv reads this once, when its pool is first used, so the process has to import this module before any other. Its own
// default, four threads, leaves a larger machine idle while images are decoded.
process.env.UV_THREADPOOL_SIZE ??= `${Math.max(4, availableParallelism())}`

/** Threads on which images are decoded and written. */
export const poolSize = Number(process.env.UV_THREADPOOL_SIZE)
