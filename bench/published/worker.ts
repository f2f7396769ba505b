// One side of compare.py: the graphs of a bundle as an engine runs them, in this process. Takes `encode N` and `decode N`
// on standard input, a line each, and answers each with a line of JSON.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { readBundle } from '../../src/inference/bundle.ts'
import { cachedGraphs, cacheFolder } from '../../src/inference/cache/cache.ts'
import { LoadedModel } from '../../src/inference/engine/loaded-model.ts'
import { sequenceLength } from '../../src/inference/graphs.ts'
import { planBatches } from '../../src/inference/sizing.ts'

const [folder = '', threads = '1'] = process.argv.slice(2)
const bundle = await readBundle(folder)
const { shape } = bundle
const graphs = await cachedGraphs(bundle, cacheFolder(process.env.NATIVETOK_CACHE, process.env), {
  info: () => {},
  warn: (fields, message) => console.error(message, fields),
})
const length = sequenceLength(shape)
const model = await LoadedModel.load({
  ...{ graphs, shape, provider: 'cpu', device: 0, threads: Number(threads), tf32: false },
  batches: { ...planBatches('cpu', 1, { threads: Number(threads), imageSize: shape.imageSize }) },
})

/** Pictures and ids by the same rule on both sides; what is in them does not change what they cost. */
const work: Record<string, (batch: number) => Promise<unknown>> = {
  encode: (batch) => {
    const pixels = Uint8Array.from({ length: batch * shape.imageSize ** 2 * 3 }, (_, i) => (i * 7919) % 251)
    return model.encode({ pixels, lengths: new Array<number>(batch).fill(length) })
  },
  decode: (batch) => {
    const tokens = Int32Array.from({ length: batch * length }, (_, i) => (i * 31) % shape.codebook.size)
    return model.decode({ tokens })
  },
}

console.log(JSON.stringify({ ready: true }))
for await (const line of createInterface({ input: process.stdin })) {
  const [name = '', batch] = line.split(' ')
  const cpu = process.cpuUsage()
  const start = performance.now()
  await work[name]?.(Number(batch))
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage(cpu)
  console.log(JSON.stringify({ seconds, cpu: (user + system) / 1e6, memory: memory() }))
}

/** MiB: the most that was resident so far; and now, what no other process shares or could read again from a file. */
function memory(): { peak: number; private: number } {
  const field = (file: string, name: string) => {
    const [, kib] = readFileSync(`/proc/self/${file}`, 'utf8').match(new RegExp(`^${name}:\\s+(\\d+)`, 'm')) ?? []
    return Math.round(Number(kib) / 1024)
  }
  return { peak: field('status', 'VmHWM'), private: field('smaps_rollup', 'Private_Dirty') }
}
