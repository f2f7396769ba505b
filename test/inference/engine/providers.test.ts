import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { chooseProvider, explainCuda, setTf32 } from '../../../src/inference/engine/providers.ts'
import { BundleError, type Provider } from '../../../src/inference/inference.ts'
import { startInference } from '../support.ts'

/** A start function that works on the given providers. */
function startOn(...there: Provider[]) {
  const tried: Provider[] = []
  const start = async (provider: Provider) => {
    tried.push(provider)
    if (!there.includes(provider)) throw new Error(`no ${provider} library`)
    return `engines on ${provider}`
  }
  return { tried, start }
}

test('auto chooses CUDA if it starts', async () => {
  const { tried, start } = startOn('cuda', 'cpu')
  assert.deepEqual(await chooseProvider('auto', start, true), {
    provider: 'cuda',
    reason: 'CUDA loads',
    started: 'engines on cuda',
  })
  assert.deepEqual(tried, ['cuda'])
})

test('auto chooses the CPU if CUDA does not start, and gives the reason', async () => {
  const { tried, start } = startOn('cpu')
  assert.deepEqual(await chooseProvider('auto', start, true), {
    provider: 'cpu',
    reason: 'CUDA does not load: no cuda library',
    started: 'engines on cpu',
  })
  assert.deepEqual(tried, ['cuda', 'cpu'])
})

test('auto does not try CUDA if it is not installed, and says so', async () => {
  const { tried, start } = startOn('cpu')
  const { provider, reason } = await chooseProvider('auto', start, false)
  assert.equal(provider, 'cpu')
  assert.match(reason, /^CUDA does not load: ONNX Runtime('s CUDA files are not installed| for Node has CUDA on)/)
  assert.deepEqual(tried, ['cpu'])
})

test('only the requested provider is tried', async () => {
  const cpu = startOn('cuda', 'cpu')
  assert.equal((await chooseProvider('cpu', cpu.start)).started, 'engines on cpu')
  assert.deepEqual(cpu.tried, ['cpu'])
  const cuda = startOn('cpu')
  await assert.rejects(
    chooseProvider('cuda', cuda.start),
    /^Error: CUDA was requested and does not load: no cuda library$/,
  )
  assert.deepEqual(cuda.tried, ['cuda'])
})

test('a wrong bundle is not reported as missing CUDA', async () => {
  const wrong = new BundleError('decoder.onnx: has no input named tokens')
  for (const requested of ['auto', 'cuda'] as const) {
    await assert.rejects(
      chooseProvider(requested, () => Promise.reject(wrong), true),
      wrong,
    )
  }
})

test('the service starts on this machine’s best provider, or reports that CUDA does not load', async () => {
  const { inference } = await startInference({ provider: 'auto' })
  const { provider, providerReason } = inference.info
  assert.match(providerReason, provider === 'cuda' ? /^CUDA loads$/ : /^CUDA does not load: \S/)
  await inference.close()
  if (provider === 'cpu') {
    const sentence = /^CUDA was requested and does not load: .*(install|only|must be|--devices)[^\n]*$/
    await assert.rejects(startInference({ provider: 'cuda' }), { message: sentence })
  }
})

test('a reason with several lines becomes one sentence', async () => {
  const failing = () => Promise.reject(new Error('CUDA failure 35:\n  the driver is too old'))
  await assert.rejects(chooseProvider('cuda', failing), {
    message: 'CUDA was requested and does not load: CUDA failure 35: the driver is too old',
  })
})

const library = '/app/node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so'
const addon = `Module did not self-register: '${library}'.`
const noFile = (path: string) => `${path}: cannot open shared object file: No such file or directory`
const failures: [what: string, platform: string, loadError: string, sentence: RegExp][] = [
  [
    'ONNX Runtime’s files',
    'linux x64',
    noFile(library),
    /not installed; `ONNXRUNTIME_NODE_INSTALL=true node .+` fetch/,
  ],
  ['cuBLAS', 'linux x64', noFile('libcublasLt.so.12'), /^libcublasLt\.so\.12 is not found; CUDA 12 and cuDNN 9 must/],
  ['a device', 'linux x64', addon, /^encoder\.onnx: invalid device ordinal; .* driver for CUDA 12, and --devices must/],
  [
    'a build for this machine',
    'darwin arm64',
    noFile(library),
    /supports CUDA only on Linux x86-64, not on darwin arm64$/,
  ],
]
for (const [what, platform, loadError, sentence] of failures) {
  test(`if CUDA lacks ${what}, the reason says so and what to do`, () => {
    assert.match(explainCuda('encoder.onnx: invalid device ordinal', platform, loadError), sentence)
  })
}

test('the script in the message exists', () => {
  const command = explainCuda('', 'linux x64', noFile(library)).match(/`\S+ node (\S+)`/)?.[1]
  assert.ok(command && existsSync(command), command)
})

test('CUDA must not use TensorFloat-32 unless requested, whatever the environment says', () => {
  const env: NodeJS.ProcessEnv = { NVIDIA_TF32_OVERRIDE: '1' }
  setTf32(env, false)
  assert.deepEqual(env, { NVIDIA_TF32_OVERRIDE: '0' })
  setTf32(env, true)
  assert.deepEqual(env, {})
})
