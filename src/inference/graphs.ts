import type { InferenceSession } from 'onnxruntime-node'
import { BundleError } from './errors.ts'

/** What the manifest promises about one input or output; the batch dimension comes first and is not in `shape`. */
export interface TensorSpec {
  name: string
  type: 'uint8' | 'int32' | 'float32'
  shape: number[]
}

/** One ONNX file of a bundle, as an engine loads it. */
export interface Graph {
  /** `encoder`, `mocet-1` to `mocet-k`, `decoder`. */
  name: string
  file: string
  path: string
  sha256: string
  inputs: TensorSpec[]
  outputs: TensorSpec[]
}

/** The sizes from which every graph's inputs and outputs follow. */
export interface ModelShape {
  /** Width and height of an image, in pixels. */
  imageSize: number
  /** Sequence lengths at which a `mocet` graph ends, ascending; the last one is the full length. */
  stages: number[]
  latents: { count: number; width: number }
  codebook: { size: number; dimension: number }
}

/** Names, without `.onnx`, and the tensors of the graphs of a model with this shape, in the order of running. */
export function graphTensors(shape: ModelShape): Pick<Graph, 'name' | 'inputs' | 'outputs'>[] {
  const images: TensorSpec = { name: 'images', type: 'uint8', shape: [shape.imageSize, shape.imageSize, 3] }
  const latents: TensorSpec = { name: 'latents', type: 'float32', shape: [shape.latents.count, shape.latents.width] }
  const ids = (name: string, count: number): TensorSpec => ({ name, type: 'int32', shape: [count] })
  return [
    { name: 'encoder', inputs: [images], outputs: [latents] },
    ...shape.stages.map((end, index) => {
      const start = shape.stages[index - 1] ?? 0
      return {
        name: stageName(index),
        inputs: start === 0 ? [latents] : [latents, ids('prefix', start)],
        outputs: [ids('tokens', end - start)],
      }
    }),
    { name: 'decoder', inputs: [ids('tokens', sequenceLength(shape))], outputs: [images] },
  ]
}

/** The full sequence length, L. */
export function sequenceLength(shape: ModelShape): number {
  return shape.stages.at(-1) ?? 0
}

/** The graph of the stage at `index`, counted from 0: `mocet-1` is the first. */
export function stageName(index: number): string {
  return `mocet-${index + 1}`
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
