import { readFile } from 'node:fs/promises'
import { InferenceSession } from 'onnxruntime-node'
import { BundleError } from '../errors.ts'
import type { Graph, TensorSpec } from '../graphs.ts'
import { sha256 } from '../sha256.ts'
import type { EngineConfig } from './protocol.ts'
import { explainCuda } from './providers.ts'

// The hash is checked again on the bytes that are loaded: an engine that replaces another must not pick up a file that
// changed on disk meanwhile, since its tokens would mean something else.
export async function loadGraph(graph: Graph, config: EngineConfig): Promise<InferenceSession> {
  const bytes = await readFile(graph.path)
  if (sha256(bytes) !== graph.sha256) throw new BundleError(`${graph.file}: changed on disk since the service started`)
  const session = await InferenceSession.create(bytes, {
    executionProviders: [config.provider === 'cuda' ? { name: 'cuda', deviceId: config.device } : 'cpu'],
    intraOpNumThreads: config.threads,
    // ONNX Runtime's own pool of memory grows with every size of batch and gives nothing back.
    enableCpuMemArena: false,
    // One block for all that a run needs, new for each run, is handed back to the system and fetched again page by page.
    enableMemPattern: false,
    // Threads that wait busily take the cores from those that decode images.
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  }).catch((error: unknown) => {
    const said = `${graph.file}: ${error instanceof Error ? error.message : error}`
    throw new Error(config.provider === 'cuda' ? explainCuda(said) : said)
  })
  checkGraph(graph, session)
  return session
}

/**
 * Compares a loaded graph's inputs and outputs with what the manifest promises.
 * @throws BundleError naming the file and the first tensor that differs.
 */
export function checkGraph(graph: Graph, session: Pick<InferenceSession, 'inputMetadata' | 'outputMetadata'>): void {
  compare(graph.file, 'input', graph.inputs, session.inputMetadata)
  compare(graph.file, 'output', graph.outputs, session.outputMetadata)
}

function compare(
  file: string,
  role: 'input' | 'output',
  expected: TensorSpec[],
  actual: readonly InferenceSession.ValueMetadata[],
): void {
  for (const spec of expected) {
    const found = actual.find((value) => value.name === spec.name)
    if (!found) throw new BundleError(`${file}: has no ${role} named ${spec.name}, which the manifest promises`)
    const wanted = `${spec.type} ${dimensions(['B', ...spec.shape])}`
    const given = found.isTensor ? `${found.type} ${dimensions(found.shape)}` : 'no tensor'
    const fits =
      found.isTensor &&
      found.type === spec.type &&
      found.shape.length === spec.shape.length + 1 &&
      typeof found.shape[0] === 'string' &&
      spec.shape.every((size, axis) => found.shape[axis + 1] === size)
    if (!fits) throw new BundleError(`${file}: ${role} ${spec.name} is ${given}, the manifest promises ${wanted}`)
  }
  const extra = actual.find((value) => !expected.some((spec) => spec.name === value.name))
  if (extra) throw new BundleError(`${file}: has an ${role} named ${extra.name}, which the manifest does not know`)
}

function dimensions(shape: readonly (number | string)[]): string {
  return `[${shape.map((size) => size || '?').join(',')}]`
}
