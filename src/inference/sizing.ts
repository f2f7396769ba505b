import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import type { BatchPlan, ItemTimes, Provider } from './engine/protocol.ts'
import { type Graph, packsWeights } from './graphs.ts'

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

/**
 * Pixels that encoder and decoder run on at once, per thread: eight images of 128 x 128, two of 256 x 256. Measured: with
 * more, a transformer's activations no longer fit in the core's cache.
 */
const PIXELS_A_THREAD = 8 * 128 * 128
/** The share of the cores that must be in use. */
const BUSY_CORES = 0.8
/** The share of memory that CPU engines may use unless their number is set; the rest is for requests and files. */
const ENGINES_SHARE = 0.5

// Private memory of one CPU engine, measured on the default bundle (fp16 weights inside) and on TiTok-S-128.
/** Node, ONNX Runtime, and a batch in transit. */
const ENGINE_BYTES = 160e6
/** Of the bytes of weights inside a graph's file: as they were read, converted, and packed for fast products. */
const COPIES_OF_INSIDE = 3
/**
 * Activations per pixel that is run on at once, in bytes. Models with external weights are the large ones, with convolutions
 * at the full size of the image.
 */
const BYTES_PER_PIXEL = { inside: 700, outside: 2200 }

/**
 * Minimum threads per engine of a large model. Measured on TiTok-S-128: two threads use the same processor time per image
 * as one, in 0.55 of the time; two engines would need twice the memory for activations.
 */
const THREADS_OF_LARGE = 2

/** The largest batch should take this share of the time that an engine has for a batch. */
const SHARE_OF_DEADLINE = 0.5

/** What determines the size of a model. */
export interface ModelSize {
  graphs: Pick<Graph, 'bytes' | 'weights' | 'inputs' | 'optimised'>[]
  imageSize: number
}

/**
 * Memory that CPU engines use, in bytes: shared memory, counted once, and the private memory of each.
 * @param threads threads per engine.
 */
export function memoryOf({ graphs, imageSize }: ModelSize, threads: number): { shared: number; each: number } {
  const sum = (sizes: number[]) => sizes.reduce((total, bytes) => total + bytes, 0)
  const files = graphs.map((graph) => graph.optimised ?? graph)
  const external = new Map(files.flatMap(({ weights }) => weights).map(({ path, bytes }) => [path, bytes]))
  const own = graphs.filter(({ optimised }) => !optimised)
  const packed = own.filter(packsWeights).flatMap(({ weights }) => weights.map(({ bytes }) => bytes))
  const inside = sum(own.map(({ bytes }) => bytes))
  const pixels = Math.max(imageSize ** 2, PIXELS_A_THREAD * threads)
  return {
    shared: sum([...external.values()]),
    each:
      ENGINE_BYTES +
      COPIES_OF_INSIDE * inside +
      sum(packed) +
      BYTES_PER_PIXEL[isLarge({ graphs, imageSize }) ? 'outside' : 'inside'] * pixels,
  }
}

/** Whether a model has weights outside its graphs. */
function isLarge({ graphs }: ModelSize): boolean {
  return graphs.some(({ weights }) => weights.length > 0)
}

/**
 * The engines to start. On CUDA one per device, or `engines` of them spread over the devices. On a CPU one per core with
 * one thread each: a small graph's products gain less from a second thread than from a second batch beside them. Engines of a
 * large model have two threads. Where memory is too small for that, fewer engines share the cores. `engines` and `threads`
 * say otherwise, one or both.
 */
export function planEngines(
  provider: Provider,
  options: { devices: number[]; engines: number | undefined; threads: number | undefined },
  { cores, memory }: Machine,
  model: ModelSize,
): EnginePlan[] {
  const devices = provider === 'cuda' ? options.devices : [0]
  const planned = provider === 'cpu' && options.engines === undefined
  const least = planned && isLarge(model) ? Math.min(cores, THREADS_OF_LARGE) : 1
  const threadsOf = (engines: number) => options.threads ?? Math.max(least, Math.floor(cores / engines))
  const fits = (engines: number) => {
    const { shared, each } = memoryOf(model, threadsOf(engines))
    return shared + engines * each <= memory * ENGINES_SHARE
  }
  let count = options.engines ?? (provider === 'cuda' ? devices.length : 1)
  if (planned) {
    // As many as fit, except numbers that leave many cores idle, such as five engines on eight cores.
    for (let engines = 2; engines * threadsOf(engines) <= cores; engines++) {
      if (fits(engines) && engines * threadsOf(engines) >= BUSY_CORES * cores) count = engines
    }
  }
  const threads = threadsOf(count)
  return Array.from({ length: count }, (_, index) => ({ device: devices[index % devices.length] ?? 0, threads }))
}

/**
 * How an engine runs batches of `max` items at most. A GPU needs more items than a CPU to have enough to do; and since
 * every new shape costs it allocations and the choice of kernels, it runs at few sizes, all of them warmed up.
 */
export function planBatches(
  provider: Provider,
  max = provider === 'cuda' ? 256 : 32,
  { threads = 1, imageSize = 128 } = {},
): BatchPlan {
  if (provider === 'cpu') {
    const part = Math.max(1, Math.floor((PIXELS_A_THREAD * threads) / imageSize ** 2))
    // Measured: the first run at another size costs no more than the second.
    return { max, sizes: [], part }
  }
  const sizes: number[] = []
  for (let size = 1; size < max; size *= 2) sizes.push(size)
  return { max, sizes: [...sizes, max], part: max }
}

/**
 * The maximum batch size: at most `max`, and at most what an engine can do well within its deadline.
 * @param itemMs milliseconds per item, run alone; the slower of encoding and decoding counts.
 * @param timeoutMs milliseconds within which an engine must answer a batch.
 */
export function largestBatch(max: number, itemMs: ItemTimes, timeoutMs: number): number {
  const slowest = Math.max(itemMs.encode, itemMs.decode)
  return Math.max(1, Math.min(max, Math.floor((timeoutMs * SHARE_OF_DEADLINE) / slowest)))
}

/** The cores and memory of the machine, or those that a container may use. */
export async function usableMachine(): Promise<Machine> {
  // "No limit" is a number far beyond the machine's memory, or 0.
  const memory = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem())
  return { cores: await usableCores(), memory }
}

/**
 * Whole cores this process may use: the CPUs it may run on, but at most its cgroup's quota (version 2 or 1).
 * @param cgroups mount point of this process's cgroup file system.
 */
export async function usableCores(cgroups = '/sys/fs/cgroup', cpus = availableParallelism()): Promise<number> {
  const [unified, quota, period] = await Promise.all(
    ['cpu.max', 'cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us'].map((file) =>
      readFile(`${cgroups}/${file}`, 'utf8').catch(() => ''),
    ),
  )
  // Version 2 has "<quota or max> <period>" in one file; version 1 has a quota of -1 if there is none.
  const [quotaUs, periodUs] = (unified || `${quota} ${period}`).trim().split(/\s+/).map(Number)
  const limit = quotaUs && periodUs && quotaUs > 0 ? quotaUs / periodUs : cpus
  return Math.max(1, Math.min(cpus, Math.floor(limit)))
}
