import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { BundleError } from '../errors.ts'
import type { Provider } from './protocol.ts'

/** The chosen provider, the reason, and what was started on it. */
export interface ProviderChoice<Started> {
  provider: Provider
  /** One sentence. */
  reason: string
  started: Started
}

/**
 * Chooses the execution provider by starting on it: `auto` starts on CUDA and, if that fails, on the CPU. ONNX Runtime's
 * own list of providers does not help: it names CUDA whether or not its files, a driver and a device are present.
 * @param installed whether CUDA's files are there; if not, `auto` saves the quarter of a second
 * that starting an engine would take.
 * @throws Error when CUDA was requested and does not start; whatever `start` throws when the CPU does not.
 */
export async function chooseProvider<Started>(
  requested: 'auto' | Provider,
  start: (provider: Provider) => Promise<Started>,
  installed = existsSync(cudaLibrary()),
): Promise<ProviderChoice<Started>> {
  if (requested === 'cpu') return { provider: 'cpu', reason: 'the CPU was requested', started: await start('cpu') }
  if (requested === 'auto' && !installed) {
    return { provider: 'cpu', reason: `CUDA does not load: ${explainCuda('')}`, started: await start('cpu') }
  }
  try {
    const started = await start('cuda')
    return { provider: 'cuda', reason: requested === 'cuda' ? 'CUDA was requested' : 'CUDA loads', started }
  } catch (error) {
    // A wrong bundle is wrong on every provider.
    if (error instanceof BundleError) throw error
    const why = (error instanceof Error ? error.message : String(error)).replaceAll(/\s+/g, ' ')
    if (requested === 'cuda') throw new Error(`CUDA was requested and does not load: ${why}`, { cause: error })
    return { provider: 'cpu', reason: `CUDA does not load: ${why}`, started: await start('cpu') }
  }
}

/**
 * Why CUDA does not load and what to do about it, in one sentence. ONNX Runtime says only that a library did not load; the
 * dynamic linker says which one.
 * @param said ONNX Runtime's message, used if the library is not the problem
 * @param loadError the dynamic linker's message
 */
export function explainCuda(
  said: string,
  platform = `${process.platform} ${process.arch}`,
  loadError = cudaLoadError(),
): string {
  if (platform !== 'linux x64') return `ONNX Runtime for Node supports CUDA only on Linux x86-64, not on ${platform}`
  const missing = /^(.+): cannot open shared object file/.exec(loadError)?.[1]
  if (missing?.endsWith(CUDA_LIBRARY)) return `ONNX Runtime's CUDA files are not installed; \`${INSTALL}\` fetches them`
  if (missing) return `${missing} is not found; CUDA 12 and cuDNN 9 must be where the dynamic linker looks`
  return `${said}; CUDA needs a driver for CUDA 12, and --devices must name devices that nvidia-smi lists`
}

const CUDA_LIBRARY = 'libonnxruntime_providers_cuda.so'
const INSTALL = 'ONNXRUNTIME_NODE_INSTALL=true node node_modules/onnxruntime-node/script/install.js'

/** The dynamic linker's error for ONNX Runtime's CUDA library. If nothing is missing, it says that it is not a Node addon. */
function cudaLoadError(): string {
  try {
    process.dlopen({ exports: {} }, cudaLibrary())
    return ''
  } catch (error) {
    return (error as Error).message
  }
}

function cudaLibrary(): string {
  return fileURLToPath(new URL(`../bin/napi-v6/linux/x64/${CUDA_LIBRARY}`, import.meta.resolve('onnxruntime-node')))
}

/**
 * Sets in an environment whether CUDA's libraries may use TensorFloat-32. ONNX Runtime allows it, and its Node binding passes
 * only the device to the CUDA provider. So this variable, which the libraries read when they are loaded, is the only way to
 * exact float32.
 */
export function setTf32(env: NodeJS.ProcessEnv, tf32: boolean): void {
  if (tf32) delete env.NVIDIA_TF32_OVERRIDE
  else env.NVIDIA_TF32_OVERRIDE = '0'
}
