import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import type { TensorSpec } from '../../src/inference/graphs.ts'
import type { Provider } from '../../src/inference/inference.ts'
import {
  largestBatch,
  memoryOf,
  planBatches,
  planEngines,
  usableCores,
  usableMachine,
} from '../../src/inference/sizing.ts'
import { startInference } from './support.ts'

const GIB = 2 ** 30
const unset = { devices: [0], engines: undefined, threads: undefined }
const times = (count: number, threads: number) => Array.from({ length: count }, () => ({ device: 0, threads }))

const images: TensorSpec = { name: 'images', type: 'uint8', shape: [256, 256, 3] }
const latents = (count: number): TensorSpec => ({ name: 'latents', type: 'float32', shape: [count, 256] })
/** A graph with these sizes of the ONNX file and of the external weights. */
const graph = (bytes: number, outside = 0, input = images) => ({
  bytes,
  inputs: [input],
  weights: outside === 0 ? [] : [{ file: 'w', path: `${outside}`, bytes: outside, sha256: '', identity: '' }],
})
/** The default bundle: 58 MB, all inside. */
const SMALL = { graphs: [graph(58e6)], imageSize: 128 }
/** TiTok-L-32 as float32. */
const LARGE = { graphs: [graph(1e6, 1.22e9), graph(1e6, 1.35e9)], imageSize: 256 }

test('on a CPU there is one engine per core with one thread each, unless set otherwise', () => {
  const plan = (options: object) => planEngines('cpu', { ...unset, ...options }, { cores: 8, memory: 64 * GIB }, SMALL)
  assert.deepEqual(plan({}), times(8, 1))
  assert.deepEqual(plan({ devices: [0, 1] }), times(8, 1))
  assert.deepEqual(plan({ engines: 2 }), times(2, 4))
  assert.deepEqual(plan({ engines: 3 }), times(3, 2))
  assert.deepEqual(plan({ threads: 4 }), times(2, 4))
  assert.deepEqual(plan({ threads: 16 }), times(1, 16))
  assert.deepEqual(plan({ engines: 16, threads: 2 }), times(16, 2))
})

test('with little memory, fewer engines share the cores', () => {
  const plan = (gigabytes: number) => planEngines('cpu', unset, { cores: 8, memory: gigabytes * 1e9 }, SMALL)
  assert.deepEqual(plan(16), times(8, 1))
  assert.deepEqual(plan(5), times(4, 2))
  assert.deepEqual(plan(0.5), times(1, 8))
})

test('a large model starts on two cores with 8 GiB, and on 64 cores with 64 GiB', () => {
  assert.deepEqual(planEngines('cpu', unset, { cores: 2, memory: 8 * GIB }, LARGE), times(1, 2))
  assert.deepEqual(planEngines('cpu', unset, { cores: 64, memory: 64 * GIB }, LARGE), times(32, 2))
  assert.deepEqual(planEngines('cpu', unset, { cores: 1, memory: 8 * GIB }, LARGE), times(1, 1))
  assert.deepEqual(planEngines('cpu', unset, { cores: 8, memory: 8 * GIB }, LARGE), times(1, 8))
  assert.deepEqual(planEngines('cpu', unset, { cores: 7, memory: 64 * GIB }, LARGE), times(3, 2))
  assert.deepEqual(planEngines('cpu', { ...unset, engines: 2 }, { cores: 2, memory: 8 * GIB }, LARGE), times(2, 1))
  const { shared, each } = memoryOf(LARGE, 1)
  assert.equal(shared, 2.57e9)
  assert.ok(each < 0.8e9, `${each}`)
  // Every engine would have its own copy of weights inside the graphs.
  const inside = { graphs: [graph(1.22e9), graph(1.35e9)], imageSize: 256 }
  assert.ok(memoryOf(inside, 1).each > 2.57e9)
  assert.equal(planEngines('cpu', unset, { cores: 64, memory: 64 * GIB }, inside).length, 3)
})

test('weights that two graphs share count once, those that engines pack privately count in each', () => {
  const twice = { graphs: [graph(0, 1e9), graph(0, 1e9)], imageSize: 256 }
  assert.equal(memoryOf(twice, 1).shared, 1e9)
  const plain = memoryOf({ graphs: [graph(0, 1e9, latents(257))], imageSize: 256 }, 1)
  const packed = memoryOf({ graphs: [graph(0, 1e9, latents(64))], imageSize: 256 }, 1)
  assert.equal(packed.each - plain.each, 1e9)
})

test('the maximum batch size is what an engine can do in half of its deadline', () => {
  assert.equal(largestBatch(32, { encode: 20, decode: 10 }, 10_000), 32)
  assert.equal(largestBatch(32, { encode: 300, decode: 1000 }, 10_000), 5)
  assert.equal(largestBatch(32, { encode: 300, decode: 60_000 }, 10_000), 1)
})

test('on CUDA there is one engine per device, and they share the cores', () => {
  const plan = (options: object) => planEngines('cuda', { ...unset, ...options }, { cores: 8, memory: GIB }, SMALL)
  assert.deepEqual(plan({ devices: [0, 2] }), [
    { device: 0, threads: 4 },
    { device: 2, threads: 4 },
  ])
  assert.deepEqual(plan({ devices: [1, 3], engines: 3, threads: 2 }), [
    { device: 1, threads: 2 },
    { device: 3, threads: 2 },
    { device: 1, threads: 2 },
  ])
})

test('the service reports what it chose for this machine', async (t) => {
  const { inference } = await startInference({ engines: undefined, threads: undefined, maxBatch: undefined })
  t.after(() => inference.close())
  const { engines, threads, maxBatch } = inference.info
  const machine = await usableMachine()
  assert.ok(engines * threads <= machine.cores && engines * threads > machine.cores / 2, `${engines} x ${threads}`)
  assert.equal(maxBatch, 32)
})

test('CUDA runs larger batches than the CPU, at powers of two', () => {
  assert.deepEqual(planBatches('cpu'), { max: 32, sizes: [], part: 8 })
  assert.deepEqual(planBatches('cpu', 1), { max: 1, sizes: [], part: 8 })
  const { max, sizes } = planBatches('cuda')
  assert.deepEqual([max, sizes], [256, [1, 2, 4, 8, 16, 32, 64, 128, 256]])
  assert.deepEqual(planBatches('cuda', 1).sizes, [1])
  assert.deepEqual(planBatches('cuda', 100).sizes, [1, 2, 4, 8, 16, 32, 64, 100])
})

test('on a CPU encoder and decoder run on a few images per thread, fewer if they are larger', () => {
  const part = (provider: Provider, threads: number, imageSize: number) =>
    planBatches(provider, 100, { threads, imageSize }).part
  assert.deepEqual([part('cpu', 1, 128), part('cpu', 4, 128), part('cuda', 4, 128)], [8, 32, 100])
  assert.deepEqual([part('cpu', 1, 256), part('cpu', 2, 256), part('cpu', 1, 1024)], [2, 4, 1])
})

const cgroups: Record<string, [files: Record<string, string>, cores: number]> = {
  'no cgroup file system': [{}, 8],
  'version 2 without a quota': [{ 'cpu.max': 'max 100000\n' }, 8],
  'version 2 with a quota': [{ 'cpu.max': '250000 100000\n' }, 2],
  'version 2 with less than a core': [{ 'cpu.max': '50000 100000\n' }, 1],
  'version 2 with more than the machine has': [{ 'cpu.max': '6400000 100000\n' }, 8],
  'version 1 without a quota': [{ 'cpu/cpu.cfs_quota_us': '-1\n', 'cpu/cpu.cfs_period_us': '100000\n' }, 8],
  'version 1 with a quota': [{ 'cpu/cpu.cfs_quota_us': '300000\n', 'cpu/cpu.cfs_period_us': '100000\n' }, 3],
}
for (const [name, [files, cores]] of Object.entries(cgroups)) {
  test(`usable cores with ${name}`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'cgroup-'))
    t.after(() => rm(folder, { recursive: true }))
    for (const [file, content] of Object.entries(files)) {
      await mkdir(dirname(join(folder, file)), { recursive: true })
      await writeFile(join(folder, file), content)
    }
    assert.equal(await usableCores(folder, 8), cores)
  })
}
