import { readFile } from 'node:fs/promises'
import { InferenceSession } from 'onnxruntime-node'
import { hashFile, identityOf } from '../bundle/files.ts'
import { BundleError, messageOf } from '../errors.ts'
import { type ExternalWeights, type Graph, type GraphFile, packsWeights, type TensorSpec } from '../graphs.ts'
import { sha256 } from '../sha256.ts'
import { externalFiles } from './external-files.ts'
import type { EngineConfig } from './protocol.ts'
import { explainCuda } from './providers.ts'

/** Smaller weights of an optimised graph stay inside it: each one outside costs a mapping. */
const SMALLEST_OUTSIDE = 1024

/**
 * Loads a graph, with the content that was verified when the service started. This also holds for replacement engines:
 * with a changed file, their tokens would mean something else.
 * @param options `optimised`: load that file of the cache instead of the bundle's. `saveAs`: where to write the graph as
 * ONNX Runtime optimised it, for the cache: a path, and the name of the file of weights beside it.
 * @throws BundleError when a file changed on disk or the graph does not match the manifest; Error when ONNX Runtime
 * cannot load it.
 */
export async function loadGraph(
  graph: Graph,
  config: EngineConfig,
  { optimised, saveAs }: { optimised?: GraphFile; saveAs?: { file: string; weights: string } } = {},
): Promise<InferenceSession> {
  const { file, path, sha256: digest, weights } = optimised ?? graph
  const files = [{ path }, ...weights]
  const identities = await Promise.all(files.map((one) => identityOf(one.path)))
  const bytes = await readFile(path)
  if (sha256(bytes) !== digest) throw changed(file)
  for (const [index, one] of weights.entries()) {
    if (identities[index + 1] === one.identity) continue
    // A new link to the file or another mode is harmless; different content is not.
    const found = await hashFile(one.path, one.file)
    if (found.sha256 !== one.sha256 || found.identity !== identities[index + 1]) throw changed(one.file)
  }
  const listed = weights.map((one) => one.file)
  const stranger = externalFiles(bytes).find((one) => !listed.includes(one))
  if (stranger !== undefined) {
    throw new BundleError(`${file}: reads ${JSON.stringify(stranger)}, which is not among its weights in the manifest`)
  }
  const options: InferenceSession.SessionOptions = {
    executionProviders: [config.provider === 'cuda' ? { name: 'cuda', deviceId: config.device } : 'cpu'],
    intraOpNumThreads: config.threads,
    graphOptimizationLevel: optimised ? 'disabled' : levelFor(weights),
    // ONNX Runtime's own pool of memory grows with every batch size and returns nothing to the system.
    enableCpuMemArena: false,
    // Otherwise every run allocates all its memory in one block, returns it to the system and fetches it page by page.
    enableMemPattern: false,
    ...(saveAs && { optimizedModelFilePath: saveAs.file }),
    extra: {
      session: {
        // Threads that wait in a busy loop take the cores from those that decode images.
        intra_op: { allow_spinning: '0' },
        ...(!optimised && weights.length > 0 && !packsWeights(graph) && { disable_prepacking: '1' }),
        ...(saveAs && savingWeights(saveAs.weights)),
      },
    },
  }
  // Loaded from its path, a graph maps the weights next to it, and engines share that memory. Otherwise hashed bytes are safer.
  const creating = weights.length > 0 ? InferenceSession.create(path, options) : InferenceSession.create(bytes, options)
  const session = await creating.catch((error: unknown) => {
    const said = `${file}: ${messageOf(error)}`
    throw new Error(config.provider === 'cuda' ? explainCuda(said) : said)
  })
  if (weights.length > 0) {
    const now = await Promise.all(files.map((one) => identityOf(one.path)))
    const index = now.findIndex((identity, i) => identity !== identities[i])
    if (index >= 0) throw changed(index === 0 ? file : (listed[index - 1] ?? ''))
  }
  checkGraph(graph, session)
  return session
}

function levelFor(weights: ExternalWeights[]): 'extended' | 'all' {
  // `all` would reorder a convolution's mapped weights into a private copy, and was measured to be no faster.
  return weights.length > 0 ? 'extended' : 'all'
}

/** Session options that write weights, and what kernels packed of them, into a file beside the optimised graph. */
function savingWeights(file: string): Record<string, string> {
  return {
    optimized_model_external_initializers_file_name: file,
    optimized_model_external_initializers_min_size_in_bytes: `${SMALLEST_OUTSIDE}`,
    save_external_prepacked_constant_initializers: '1',
  }
}

function changed(file: string): BundleError {
  return new BundleError(`${file}: changed on disk since the service started`)
}

/**
 * Compares a loaded graph's inputs and outputs with the manifest.
 * @throws BundleError naming the file and the first tensor that differs.
 */
function checkGraph(graph: Graph, session: Pick<InferenceSession, 'inputMetadata' | 'outputMetadata'>): void {
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
    if (!found && spec.optional) continue
    if (!found) throw new BundleError(`${file}: has no ${role} named ${spec.name}, which the manifest requires`)
    const wanted = `${spec.type} ${dimensions(['B', ...spec.shape])}`
    const given = found.isTensor ? `${found.type} ${dimensions(found.shape)}` : 'no tensor'
    const fits =
      found.isTensor &&
      found.type === spec.type &&
      found.shape.length === spec.shape.length + 1 &&
      typeof found.shape[0] === 'string' &&
      spec.shape.every((size, axis) => found.shape[axis + 1] === size)
    if (!fits) throw new BundleError(`${file}: ${role} ${spec.name} is ${given}, but the manifest says ${wanted}`)
  }
  const extra = actual.find((value) => !expected.some((spec) => spec.name === value.name))
  if (extra) throw new BundleError(`${file}: has an ${role} named ${extra.name}, which is not in the manifest`)
}

function dimensions(shape: readonly (number | string)[]): string {
  return `[${shape.map((size) => size || '?').join(',')}]`
}
