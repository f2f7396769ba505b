import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import type { Provider } from '../../src/inference/inference.ts'
import { planBatches, planEngines, usableCores, usableMachine } from '../../src/inference/sizing.ts'
import { startInference } from './support.ts'

const GIB = 2 ** 30
const GRAPHS = 60e6
const unset = { devices: [0], engines: undefined, threads: undefined }
const times = (count: number, threads: number) => Array.from({ length: count }, () => ({ device: 0, threads }))

test('on a CPU one engine a core with one thread each, unless told otherwise', () => {
  const plan = (options: object) => planEngines('cpu', { ...unset, ...options }, { cores: 8, memory: 64 * GIB }, GRAPHS)
  assert.deepEqual(plan({}), times(8, 1))
  assert.deepEqual(plan({ devices: [0, 1] }), times(8, 1))
  assert.deepEqual(plan({ engines: 2 }), times(2, 4))
  assert.deepEqual(plan({ engines: 3 }), times(3, 2))
  assert.deepEqual(plan({ threads: 4 }), times(2, 4))
  assert.deepEqual(plan({ threads: 16 }), times(1, 16))
  assert.deepEqual(plan({ engines: 16, threads: 2 }), times(16, 2))
})

test('where memory is small, fewer engines share the cores', () => {
  const plan = (gigabytes: number) => planEngines('cpu', unset, { cores: 8, memory: gigabytes * 1e9 }, GRAPHS)
  assert.deepEqual(plan(5), times(4, 2))
  assert.deepEqual(plan(2), times(1, 8))
  assert.deepEqual(plan(0.5), times(1, 8))
})

test('on CUDA one engine a device, cores shared', () => {
  const plan = (options: object) => planEngines('cuda', { ...unset, ...options }, { cores: 8, memory: GIB }, GRAPHS)
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

test('the service says what it chose for this machine', async (t) => {
  const { inference } = await startInference({ engines: undefined, threads: undefined, maxBatch: undefined })
  t.after(() => inference.close())
  const { engines, threads, maxBatch } = inference.info
  const machine = await usableMachine()
  assert.ok(engines * threads <= machine.cores && engines * threads > machine.cores / 2, `${engines} x ${threads}`)
  assert.equal(maxBatch, 32)
})

test('CUDA runs larger batches than the CPU, at powers of two', () => {
  assert.deepEqual(planBatches('cpu'), { max: 32, sizes: [1, 32], pinned: false, part: 8 })
  assert.deepEqual(planBatches('cpu', 1), { max: 1, sizes: [1], pinned: false, part: 8 })
  const { max, sizes, pinned } = planBatches('cuda')
  assert.deepEqual([max, sizes, pinned], [256, [1, 2, 4, 8, 16, 32, 64, 128, 256], true])
  assert.deepEqual(planBatches('cuda', 1).sizes, [1])
  assert.deepEqual(planBatches('cuda', 100).sizes, [1, 2, 4, 8, 16, 32, 64, 100])
})

test('encoder and decoder run on eight images a core of the CPU, and on whole batches of a GPU', () => {
  const part = (provider: Provider, threads: number) => planBatches(provider, 100, threads).part
  assert.deepEqual([part('cpu', 1), part('cpu', 4), part('cuda', 4)], [8, 32, 100])
})

const cgroups: Record<string, [files: Record<string, string>, cores: number]> = {
  'no cgroup file system': [{}, 8],
  'version 2 without a quota': [{ 'cpu.max': 'max 100000\n' }, 8],
  'version 2 with a quota': [{ 'cpu.max': '250000 100000\n' }, 2],
  'version 2 with less than a core': [{ 'cpu.max': '50000 100000\n' }, 1],
  'version 2 with more than there is': [{ 'cpu.max': '6400000 100000\n' }, 8],
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
