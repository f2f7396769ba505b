import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import type { BatchPlan, Provider } from './engine/protocol.ts'

/** What this process may use of its machine. */
export interface Machine {
  cores: number
  /** Bytes. */
  memory: number
}

/** One engine to start. */
export interface EnginePlan {
  /** CUDA device; 0, without meaning, on CPU. */
  device: number
  /** Threads one graph runs on. */
  threads: number
}

/** Measured: with more, what a transformer's layers pass on to each other leaves the core's cache. */
const IMAGES_A_CORE = 8
/** Of the memory, what engines may take on a CPU unless their number is set; the rest is for requests, files and others. */
const ENGINES_SHARE = 0.5
/** Measured of an engine on a CPU at batches of 32: what it takes over what its graphs take on disk. */
const MEMORY_OVER_FILES = 10

/**
 * The engines to start. On CUDA one a device, or `engines` of them spread over the devices. On a CPU one a core, with one
 * thread each: a graph's small products gain less from a second thread than from a second batch beside them. Where memory
 * is too small for that, fewer engines share the cores. `engines` and `threads` say otherwise, one or both.
 * @param graphBytes size of the bundle's graphs on disk
 */
export function planEngines(
  provider: Provider,
  options: { devices: number[]; engines: number | undefined; threads: number | undefined },
  { cores, memory }: Machine,
  graphBytes: number,
): EnginePlan[] {
  const devices = provider === 'cuda' ? options.devices : [0]
  const fitting = Math.floor((memory * ENGINES_SHARE) / (graphBytes * MEMORY_OVER_FILES))
  const wanted = provider === 'cuda' ? devices.length : Math.min(Math.floor(cores / (options.threads ?? 1)), fitting)
  const count = options.engines ?? Math.max(1, wanted)
  const threads = options.threads ?? Math.max(1, Math.floor(cores / count))
  return Array.from({ length: count }, (_, index) => ({ device: devices[index % devices.length] ?? 0, threads }))
}

/**
 * The batches for a provider's engines, of `max` items at most. A GPU needs more items than a CPU to have enough to do;
 * and since every new shape costs it allocations and the choice of kernels, it runs at few, all of them warmed up.
 */
export function planBatches(provider: Provider, max = provider === 'cuda' ? 256 : 32, threads = 1): BatchPlan {
  if (provider === 'cpu') return { max, sizes: [...new Set([1, max])], pinned: false, part: IMAGES_A_CORE * threads }
  const sizes: number[] = []
  for (let size = 1; size < max; size *= 2) sizes.push(size)
  return { max, sizes: [...sizes, max], pinned: true, part: max }
}

/** Cores and memory, as the machine has them or a container is allowed. */
export async function usableMachine(): Promise<Machine> {
  // A limit that is none is a number far beyond what there is, or 0.
  const memory = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem())
  return { cores: await usableCores(), memory }
}

/**
 * Whole cores this process may use: the CPUs it may run on, no more than its cgroup's quota (version 2 or 1) pays for.
 * @param cgroups where the cgroup file system of this process is mounted.
 */
export async function usableCores(cgroups = '/sys/fs/cgroup', cpus = availableParallelism()): Promise<number> {
  const [unified, quota, period] = await Promise.all(
    ['cpu.max', 'cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us'].map((file) =>
      readFile(`${cgroups}/${file}`, 'utf8').catch(() => ''),
    ),
  )
  // Version 2 has "<quota or max> <period>" in one file; version 1 a quota of -1 where there is none.
  const [quotaUs, periodUs] = (unified || `${quota} ${period}`).trim().split(/\s+/).map(Number)
  const limit = quotaUs && periodUs && quotaUs > 0 ? quotaUs / periodUs : cpus
  return Math.max(1, Math.min(cpus, Math.floor(limit)))
}
