import { availableParallelism } from 'node:os'

// libuv reads this once, when its pool is first used, so the process must import this module before any other. Its own
// default, four threads, leaves a larger machine idle while images are decoded.
process.env.UV_THREADPOOL_SIZE ??= `${Math.max(4, availableParallelism())}`

/** Threads that decode and write images. */
export const poolSize = Number(process.env.UV_THREADPOOL_SIZE)
