/** An input or output as the manifest declares it; `shape` leaves out the batch axis, which comes first. */
export interface TensorSpec {
  name: string
  type: 'uint8' | 'int32' | 'float32'
  shape: number[]
  /** Whether the graph may leave it out. */
  optional?: boolean
}

/** An ONNX file and the files of its weights. */
export interface GraphFile {
  file: string
  path: string
  /** Size of the ONNX file, in bytes. */
  bytes: number
  sha256: string
  /** Files of external weights, next to the graph; empty if the weights are inside it. */
  weights: ExternalWeights[]
}

/** One graph of a bundle, as an engine loads it. */
export interface Graph extends GraphFile {
  /** `encoder`, `mocet-1` to `mocet-k`, `decoder`. */
  name: string
  inputs: TensorSpec[]
  outputs: TensorSpec[]
  /** The same graph as ONNX Runtime optimised it for this machine, with its weights packed; from the cache. */
  optimised?: GraphFile
}

/** A file of weights that engines map into memory instead of reading it. */
export interface ExternalWeights {
  file: string
  path: string
  bytes: number
  sha256: string
  /** The file's identity when it was hashed. A file that still has it need not be hashed again. */
  identity: string
}

/** What determines the inputs and outputs of every graph. */
export interface ModelShape {
  /** `causal`: shorter encodings are prefixes of longer ones. `parallel`: only whole sequences mean something. */
  kind: 'causal' | 'parallel'
  /** Whether prefixes decode. If not, the decoder takes only whole sequences. */
  prefixes: boolean
  /** Width and height of an image, in pixels. */
  imageSize: number
  /** Sequence lengths at which a stage ends, ascending; the last one is the full length. */
  stages: number[]
  /** What a stage passes to the next one; `none` for a parallel model, whose encoder makes the tokens without stages. */
  handover: 'ids' | 'state' | 'none'
  /** What the encoder passes to the stages; undefined for a parallel model. */
  latents: { count: number; width: number } | undefined
  /** The rows, one per token, that a stage passes to the next one; undefined unless `handover` is `state`. */
  state: { width: number } | undefined
  codebook: { size: number; dimension: number }
}

/** Names and tensors of the graphs of a model with this shape, in the order in which they run. */
export function graphTensors(shape: ModelShape): Pick<Graph, 'name' | 'inputs' | 'outputs'>[] {
  const images: TensorSpec = { name: 'images', type: 'uint8', shape: [shape.imageSize, shape.imageSize, 3] }
  const tokens = (count: number): TensorSpec => ({ name: 'tokens', type: 'int32', shape: [count] })
  const length = sequenceLength(shape)
  const decoder = { name: 'decoder', inputs: [tokens(length)], outputs: [images] }
  if (!shape.latents) return [{ name: 'encoder', inputs: [images], outputs: [tokens(length)] }, decoder]
  const latents: TensorSpec = { name: 'latents', type: 'float32', shape: [shape.latents.count, shape.latents.width] }
  return [
    { name: 'encoder', inputs: [images], outputs: [latents] },
    ...shape.stages.map((end, index) => {
      const start = shape.stages[index - 1] ?? 0
      return {
        name: stageName(index),
        inputs: start === 0 ? [latents] : [latents, handedOver(shape, start)],
        outputs: [
          tokens(end - start),
          ...(shape.state ? [{ ...handedOver(shape, end), name: 'state', optional: end === length }] : []),
        ],
      }
    }),
    decoder,
  ]
}

/** What a stage receives about the `start` tokens before it. */
function handedOver({ state }: ModelShape, start: number): TensorSpec {
  return state
    ? { name: 'prefix_state', type: 'float32', shape: [start, state.width] }
    : { name: 'prefix', type: 'int32', shape: [start] }
}

/** Measured: from this many rows on, products lose less than a tenth of their speed without packed weights; with one row, half. */
const MANY_ROWS = 128

/**
 * Whether an engine should pack a graph's external weights into a private copy instead of reading the shared memory: only
 * for the small products of stages with few latents.
 */
export function packsWeights({ inputs }: Pick<Graph, 'inputs'>): boolean {
  const latents = inputs.find(({ name }) => name === 'latents')
  return latents !== undefined && (latents.shape[0] ?? 0) < MANY_ROWS
}

/** Whether an engine that loads the bundle's own file keeps a private copy of the graph's weights. */
export function copiesWeights(graph: Pick<Graph, 'inputs' | 'weights'>): boolean {
  return graph.weights.length === 0 || packsWeights(graph)
}

/** The full sequence length, L. */
export function sequenceLength(shape: Pick<ModelShape, 'stages'>): number {
  return shape.stages.at(-1) ?? 0
}

/** The graph of the stage at `index`, counted from 0: `mocet-1` is the first. */
export function stageName(index: number): string {
  return `mocet-${index + 1}`
}
