import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { BundleError } from '../errors.ts'
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
 * @param installed whether its files are there; where not, `auto` does not spend a quarter of a second to hear it from an
 * engine.
 * @throws Error when CUDA was asked for and does not start; whatever `start` throws when the CPU does not.
 */
export async function chooseProvider<Started>(
  requested: 'auto' | Provider,
  start: (provider: Provider) => Promise<Started>,
  installed = existsSync(cudaLibrary()),
): Promise<ProviderChoice<Started>> {
  if (requested === 'cpu') return { provider: 'cpu', reason: 'the CPU was asked for', started: await start('cpu') }
  if (requested === 'auto' && !installed) {
    return { provider: 'cpu', reason: `CUDA does not load: ${explainCuda('')}`, started: await start('cpu') }
  }
  try {
    const started = await start('cuda')
    return { provider: 'cuda', reason: requested === 'cuda' ? 'CUDA was asked for' : 'CUDA loads', started }
  } catch (error) {
    // A bundle that is wrong is wrong on every provider.
    if (error instanceof BundleError) throw error
    const why = (error instanceof Error ? error.message : String(error)).replaceAll(/\s+/g, ' ')
    if (requested === 'cuda') throw new Error(`CUDA was asked for and does not load: ${why}`, { cause: error })
    return { provider: 'cpu', reason: `CUDA does not load: ${why}`, started: await start('cpu') }
  }
}

/**
 * Why CUDA does not load and what to do about it, in one sentence. ONNX Runtime itself tells no more than that a library
 * did not load, not which one; the dynamic linker does.
 * @param said ONNX Runtime's words, for when the library is not what is wrong
 * @param loadError the dynamic linker's words
 */
export function explainCuda(
  said: string,
  platform = `${process.platform} ${process.arch}`,
  loadError = cudaLoadError(),
): string {
  if (platform !== 'linux x64') return `ONNX Runtime for Node has CUDA on Linux x86-64 alone, this is ${platform}`
  const missing = /^(.+): cannot open shared object file/.exec(loadError)?.[1]
  if (missing?.endsWith(CUDA_LIBRARY)) return `ONNX Runtime's CUDA files are not installed; \`${INSTALL}\` fetches them`
  if (missing) return `${missing} is not found; CUDA 12 and cuDNN 9 have to be where the dynamic linker looks`
  return `${said}; it takes a driver for CUDA 12, and --devices has to name devices that nvidia-smi lists`
}

const CUDA_LIBRARY = 'libonnxruntime_providers_cuda.so'
const INSTALL = 'ONNXRUNTIME_NODE_INSTALL=true node node_modules/onnxruntime-node/script/install.js'

/** What the dynamic linker says of ONNX Runtime's CUDA library; that it is no Node addon where nothing is missing. */
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
 * Sets in an environment whether CUDA's libraries may use TensorFloat-32. ONNX Runtime lets them, and its Node binding
 * passes nothing but the device on to the CUDA provider, so that this variable, which the libraries read when they are
 * loaded, is the one way to have exact float32.
 */
export function setTf32(env: NodeJS.ProcessEnv, tf32: boolean): void {
  if (tf32) delete env.NVIDIA_TF32_OVERRIDE
  else env.NVIDIA_TF32_OVERRIDE = '0'
}
