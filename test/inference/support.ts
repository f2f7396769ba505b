import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import sharp from 'sharp'
import { type EngineEnd, Inference, type InferenceOptions } from '../../src/inference/inference.ts'
import { BUNDLE } from '../helpers/bundle.ts'

const PHOTOS = fileURLToPath(new URL('../fixtures/photos', import.meta.url))

/** Pixels of `count` different photos, uint8 [128,128,3] each. */
export async function photos(count: number): Promise<Uint8Array[]> {
  const files = (await readdir(PHOTOS)).filter((file) => file.endsWith('.webp')).sort()
  if (files.length < count) throw new Error(`there are ${files.length} photos, not ${count}`)
  return Promise.all(
    files
      .slice(0, count)
      .map((file) => sharp(`${PHOTOS}/${file}`).resize(128, 128, { fit: 'cover' }).removeAlpha().raw().toBuffer()),
  )
}

/** What a service under test logs and counts. */
export interface Observed {
  /** Ids of the engine processes, in the order in which they became ready. */
  pids: number[]
  batches: { kind: string; size: number }[]
  restarts: EngineEnd[]
  /** Resolves when the next batch has gone to an engine. */
  nextBatch(): Promise<void>
}

/** Starts the service with the real bundle, on the CPU, and observes it. */
export async function startInference(
  options: Partial<InferenceOptions> = {},
  child?: URL,
): Promise<{ inference: Inference; observed: Observed }> {
  const waiting: (() => void)[] = []
  const observed: Observed = {
    pids: [],
    batches: [],
    restarts: [],
    nextBatch: () => new Promise((resolve) => waiting.push(resolve)),
  }
  const inference = await Inference.start(
    {
      model: BUNDLE,
      provider: 'cpu',
      devices: [0],
      engines: 1,
      threads: undefined,
      tf32: false,
      maxBatch: 32,
      queueLimit: 4096,
      timeoutMs: 60_000,
      log: {
        info: (fields) => {
          if ('enginePid' in fields && typeof fields.enginePid === 'number') observed.pids.push(fields.enginePid)
        },
        warn: () => {},
        error: () => {},
      },
      metrics: {
        batch: (kind, size) => {
          observed.batches.push({ kind, size })
          for (const resolve of waiting.splice(0)) setImmediate(resolve)
        },
        engineRestart: (end) => observed.restarts.push(end),
      },
      ...options,
    },
    child,
  )
  return { inference, observed }
}

/** Whether a process with this id exists. */
export function alive(pid: number | undefined): boolean {
  if (pid === undefined) return false
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
