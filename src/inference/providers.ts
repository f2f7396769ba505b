import { readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { BundleError } from './errors.ts'
import type { Provider } from './protocol.ts'

/** A provider that works, why it was chosen, and what was started on it. */
export interface ProviderChoice<Started> {
  provider: Provider
  /** One sentence. */
  reason: string
  started: Started
}

/**
 * Chooses the execution provider by starting on it: `auto` starts on CUDA and, where that fails, on the CPU. ONNX Runtime's
 * own list of providers does not help here, since it names CUDA whether or not its files, a driver and a device are there.
 * @throws Error when CUDA was asked for and does not start; whatever `start` throws when the CPU does not.
 */
export async function chooseProvider<Started>(
  requested: 'auto' | Provider,
  start: (provider: Provider) => Promise<Started>,
): Promise<ProviderChoice<Started>> {
  if (requested === 'cpu') return { provider: 'cpu', reason: 'the CPU was asked for', started: await start('cpu') }
  try {
    const started = await start('cuda')
    return { provider: 'cuda', reason: requested === 'cuda' ? 'CUDA was asked for' : 'CUDA loads', started }
  } catch (error) {
    // A bundle that is wrong is wrong on every provider.
    if (error instanceof BundleError) throw error
    const why = error instanceof Error ? error.message : String(error)
    if (requested === 'cuda') throw new Error(`CUDA was asked for and does not load: ${why}`, { cause: error })
    return { provider: 'cpu', reason: `CUDA does not load: ${why}`, started: await start('cpu') }
  }
}

/** One engine to start. */
export interface EnginePlan {
  /** CUDA device; 0, without meaning, on CPU. */
  device: number
  /** Threads one graph runs on. */
  threads: number
}

/**
 * The engines to start. On CUDA one a device, or `engines` of them spread over the devices; on CPU one. They share the
 * cores evenly unless `threads` says otherwise.
 */
export function planEngines(
  provider: Provider,
  options: { devices: number[]; engines: number | undefined; threads: number | undefined },
  cores: number,
): EnginePlan[] {
  const devices = provider === 'cuda' ? options.devices : [0]
  const count = options.engines ?? devices.length
  const threads = options.threads ?? Math.max(1, Math.floor(cores / count))
  return Array.from({ length: count }, (_, index) => ({ device: devices[index % devices.length] ?? 0, threads }))
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
