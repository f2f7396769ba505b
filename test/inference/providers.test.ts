import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { BundleError, type Provider } from '../../src/inference/index.ts'
import { chooseProvider, planEngines, usableCores } from '../../src/inference/providers.ts'
import { startInference } from './support.ts'

/** Starts on the providers that are there. */
function startOn(...there: Provider[]) {
  const tried: Provider[] = []
  const start = async (provider: Provider) => {
    tried.push(provider)
    if (!there.includes(provider)) throw new Error(`no ${provider} library`)
    return `engines on ${provider}`
  }
  return { tried, start }
}

test('auto takes CUDA where it starts', async () => {
  const { tried, start } = startOn('cuda', 'cpu')
  assert.deepEqual(await chooseProvider('auto', start), {
    provider: 'cuda',
    reason: 'CUDA loads',
    started: 'engines on cuda',
  })
  assert.deepEqual(tried, ['cuda'])
})

test('auto takes the CPU where CUDA does not start, and says why', async () => {
  const { tried, start } = startOn('cpu')
  assert.deepEqual(await chooseProvider('auto', start), {
    provider: 'cpu',
    reason: 'CUDA does not load: no cuda library',
    started: 'engines on cpu',
  })
  assert.deepEqual(tried, ['cuda', 'cpu'])
})

test('what was asked for is all that is tried', async () => {
  const cpu = startOn('cuda', 'cpu')
  assert.equal((await chooseProvider('cpu', cpu.start)).started, 'engines on cpu')
  assert.deepEqual(cpu.tried, ['cpu'])
  const cuda = startOn('cpu')
  await assert.rejects(
    chooseProvider('cuda', cuda.start),
    /^Error: CUDA was asked for and does not load: no cuda library$/,
  )
  assert.deepEqual(cuda.tried, ['cuda'])
})

test('a wrong bundle is not taken for a missing CUDA', async () => {
  const wrong = new BundleError('decoder.onnx: has no input named tokens')
  for (const requested of ['auto', 'cuda'] as const) {
    await assert.rejects(
      chooseProvider(requested, () => Promise.reject(wrong)),
      wrong,
    )
  }
})

test('the service starts on this machine’s best provider, or says that CUDA is not there', async () => {
  const { inference } = await startInference({ provider: 'auto' })
  const { provider, providerReason } = inference.info
  assert.match(providerReason, provider === 'cuda' ? /^CUDA loads$/ : /^CUDA does not load: \S/)
  await inference.close()
  if (provider === 'cpu') {
    await assert.rejects(startInference({ provider: 'cuda' }), /^Error: CUDA was asked for and does not load: \S/)
  }
})

test('one engine a device on CUDA, one on CPU, cores shared', () => {
  const none = { engines: undefined, threads: undefined }
  assert.deepEqual(planEngines('cpu', { devices: [0, 1], ...none }, 8), [{ device: 0, threads: 8 }])
  assert.deepEqual(planEngines('cuda', { devices: [0, 2], ...none }, 8), [
    { device: 0, threads: 4 },
    { device: 2, threads: 4 },
  ])
  assert.deepEqual(planEngines('cpu', { devices: [0], engines: 3, threads: undefined }, 2), [
    { device: 0, threads: 1 },
    { device: 0, threads: 1 },
    { device: 0, threads: 1 },
  ])
  assert.deepEqual(planEngines('cuda', { devices: [1, 3], engines: 3, threads: 2 }, 8), [
    { device: 1, threads: 2 },
    { device: 3, threads: 2 },
    { device: 1, threads: 2 },
  ])
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
