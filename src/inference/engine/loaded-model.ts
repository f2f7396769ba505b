import { type InferenceSession, Tensor } from 'onnxruntime-node'
import { messageOf } from '../errors.ts'
import { type Graph, sequenceLength, stageName } from '../graphs.ts'
import type {
  DecodeBatch,
  DecodeResult,
  EncodeBatch,
  EncodeResult,
  EngineConfig,
  GraphTimings,
  ItemTimes,
} from './protocol.ts'
import { setTf32 } from './providers.ts'
import { fillRows, joinParts, type Numbers, partsOf, rowsToRun } from './rows.ts'
import { loadGraph } from './session.ts'

/** Time after which no further run is measured, in milliseconds. */
const WARM_UP_MS = 3000

interface LoadedGraph extends Graph {
  session: InferenceSession
}

/** A model whose graphs are loaded. */
export class LoadedModel {
  readonly #config: EngineConfig
  readonly #graphs: Map<string, LoadedGraph>
  readonly #length: number
  #itemMs: ItemTimes = { encode: 0, decode: 0 }

  private constructor(config: EngineConfig, graphs: LoadedGraph[]) {
    this.#config = config
    this.#graphs = new Map(graphs.map((graph) => [graph.name, graph]))
    this.#length = sequenceLength(config.shape)
  }

  /**
   * Loads every graph and runs all of them, at the sizes of the plan if it has any, so that no request pays for a first run.
   * @param loadOne how a graph is loaded; by default from the cache where that has it.
   * @throws BundleError when a file changed or a graph does not match the manifest; Error when it does not load.
   */
  static async load(config: EngineConfig, loadOne = loadCached): Promise<LoadedModel> {
    // Before the first session, which loads CUDA's libraries.
    if (config.provider === 'cuda') setTf32(process.env, config.tf32)
    const graphs: LoadedGraph[] = []
    for (const graph of config.graphs) graphs.push({ ...graph, session: await loadOne(graph, config) })
    const model = new LoadedModel(config, graphs)
    await model.#warmUp()
    return model
  }

  /** Gives back the memory of the graphs, which cannot run after that. */
  async release(): Promise<void> {
    for (const { session } of this.#graphs.values()) await session.release()
  }

  /** How long one item takes, once the model is warm. */
  get itemMs(): ItemTimes {
    return this.#itemMs
  }

  async #warmUp(): Promise<void> {
    // The first run is slower than any other, and a later one may be slow because of other processes.
    const first = await this.#runOnZeros(1)
    const runs: ItemTimes[] = []
    for (let ms = 0; runs.length < 3 && ms < WARM_UP_MS; ms += first.encode + first.decode) {
      runs.push(await this.#runOnZeros(1))
    }
    this.#itemMs = {
      encode: Math.min(...runs.map(({ encode }) => encode)),
      decode: Math.min(...runs.map(({ decode }) => decode)),
    }
    for (const size of this.#config.batches.sizes) if (size > 1) await this.#runOnZeros(size)
  }

  async #runOnZeros(count: number): Promise<ItemTimes> {
    const { imageSize } = this.#config.shape
    const pixels = new Uint8Array(count * imageSize * imageSize * 3)
    const start = performance.now()
    await this.encode({ pixels, lengths: new Array<number>(count).fill(this.#length) })
    const encoded = performance.now()
    await this.decode({ tokens: new Int32Array(count * this.#length) })
    return { encode: encoded - start, decode: performance.now() - encoded }
  }

  async encode({ pixels, lengths }: EncodeBatch): Promise<EncodeResult> {
    const timings: GraphTimings = {}
    const encoded = await this.#runInParts('encoder', lengths.length, pixels, timings)
    const tokens = this.#config.shape.latents
      ? await this.#runStages(encoded, lengths, timings)
      : Uint16Array.from(encoded)
    return { tokens, timings }
  }

  /**
   * Runs the stages that the longest length needs. Images are sorted longest first, so those that need a stage are the
   * leading rows, and a stage runs on a view of them. The receiver cuts rows to their length, which causality makes exact.
   */
  async #runStages(latents: Numbers, lengths: number[], timings: GraphTimings): Promise<Uint16Array> {
    const tokens = new Uint16Array(lengths.length * this.#length)
    let handedOver: Record<string, Numbers> = {}
    let start = 0
    for (const [index, end] of this.#config.shape.stages.entries()) {
      const rows = lengths.filter((length) => length > start).length
      if (rows === 0) break
      const inputs = { latents: leading(latents, lengths.length, rows), ...handedOver }
      const outputs = await this.#run(stageName(index), rows, inputs, timings)
      const width = end - start
      for (let row = 0; row < rows; row++) {
        tokens.set(outputs.tokens?.subarray(row * width, (row + 1) * width) ?? [], row * this.#length + start)
      }
      start = end
      const next = lengths.filter((length) => length > start).length
      handedOver = outputs.state
        ? { prefix_state: leading(outputs.state, rows, next) }
        : { prefix: prefixes(tokens, next, this.#length, start) }
    }
    return tokens
  }

  async decode({ tokens }: DecodeBatch): Promise<DecodeResult> {
    const timings: GraphTimings = {}
    const pixels = (await this.#runInParts('decoder', tokens.length / this.#length, tokens, timings)) as Uint8Array
    return { pixels, timings }
  }

  /** Runs a graph with one input and one output on one part of the batch after another. */
  async #runInParts(name: string, rows: number, data: Numbers, timings: GraphTimings): Promise<Numbers> {
    const { inputs, outputs } = this.#graph(name)
    const [input, output] = [inputs[0]?.name ?? '', outputs[0]?.name ?? '']
    const width = data.length / rows
    const results: Numbers[] = []
    for (const [start, end] of partsOf(rows, this.#config.batches.part)) {
      const part = { [input]: data.subarray(start * width, end * width) }
      const { [output]: result } = await this.#run(name, end - start, part, timings)
      if (result) results.push(result)
    }
    return joinParts(results)
  }

  /**
   * Runs a graph on `rows` rows, or on the next of the plan's sizes.
   * @param inputs by name, row after row.
   * @returns outputs by name, without the padding rows.
   */
  async #run(
    name: string,
    rows: number,
    inputs: Record<string, Numbers>,
    timings: GraphTimings,
  ): Promise<Record<string, Numbers>> {
    const started = performance.now()
    const graph = this.#graph(name)
    const count = rowsToRun(rows, this.#config.batches)
    const feeds = graph.inputs.map(({ name: input, type, shape }) => {
      const data = inputs[input]
      if (!data) throw new Error(`${name} has no value for input ${input}`)
      return [input, new Tensor(type, fillRows(data, rows, count), [count, ...shape])]
    })
    const results = await graph.session.run(Object.fromEntries(feeds))
    timings[name] = (timings[name] ?? 0) + performance.now() - started
    return Object.fromEntries(
      Object.entries(results).map(([output, { data }]) => [output, leading(data as Numbers, count, rows)]),
    )
  }

  #graph(name: string): LoadedGraph {
    const graph = this.#graphs.get(name)
    if (!graph) throw new Error(`there is no graph ${name}`)
    return graph
  }
}

/** Loads a graph from the cache. If its entry is gone or changed since the service started, loads the bundle's file. */
async function loadCached(graph: Graph, config: EngineConfig): Promise<InferenceSession> {
  const { optimised } = graph
  if (!optimised) return loadGraph(graph, config)
  try {
    return await loadGraph(graph, config, { optimised })
  } catch (error) {
    console.error(`the cached copy of ${graph.file} does not load, so the bundle's is used: ${messageOf(error)}`)
    return loadGraph(graph, config)
  }
}

/** The first `wanted` of `rows` rows. */
function leading(data: Numbers, rows: number, wanted: number): Numbers {
  return data.subarray(0, (data.length / rows) * wanted)
}

/** The first `end` tokens of the leading rows, int32 `[rows,end]`. */
function prefixes(tokens: Uint16Array, rows: number, length: number, end: number): Int32Array {
  const prefix = new Int32Array(rows * end)
  for (let row = 0; row < rows; row++) prefix.set(tokens.subarray(row * length, row * length + end), row * end)
  return prefix
}
