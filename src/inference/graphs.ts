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
