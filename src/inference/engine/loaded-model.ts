import { readFile } from 'node:fs/promises'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { BundleError } from '../errors.ts'
import { checkGraph, type Graph, sequenceLength, stageName } from '../graphs.ts'
import { sha256 } from '../sha256.ts'
import { largestPart, rowsToRun } from '../sizing.ts'
import type { DecodeBatch, DecodeResult, EncodeBatch, EncodeResult, EngineConfig, GraphTimings } from './protocol.ts'
import { explainCuda, setTf32 } from './providers.ts'
import { fillRows, joinParts, type Numbers, partsOf } from './rows.ts'

/** A model whose graphs are loaded. */
export class LoadedModel {
  readonly #config: EngineConfig
  readonly #sessions: Map<string, InferenceSession>

  private constructor(config: EngineConfig, sessions: Map<string, InferenceSession>) {
    this.#config = config
    this.#sessions = sessions
  }

  /** Loads every graph, then runs all of them at every size of the plan, so that no request pays for a first run. */
  static async load(config: EngineConfig): Promise<LoadedModel> {
    // Before the first session: that one loads CUDA's libraries.
    if (config.provider === 'cuda') setTf32(process.env, config.tf32)
    const sessions = new Map<string, InferenceSession>()
    for (const graph of config.graphs) sessions.set(graph.name, await loadGraph(graph, config))
    const model = new LoadedModel(config, sessions)
    const { imageSize } = config.shape
    const length = sequenceLength(config.shape)
    for (const count of config.batches.sizes) {
      await model.encode({
        pixels: new Uint8Array(count * imageSize * imageSize * 3),
        lengths: new Array<number>(count).fill(length),
      })
      await model.decode({ tokens: new Int32Array(count * length) })
    }
    return model
  }

  /**
   * Encodes a batch stage by stage. Images may differ in length: sorted longest first, those that need a stage are the
   * leading rows, so it runs on a view of them and on no image that does not need it; rows are cut to their length by
   * the receiver, which causality makes exact.
   */
  async encode({ pixels, lengths }: EncodeBatch): Promise<EncodeResult> {
    const { imageSize, stages, latents: latent } = this.#config.shape
    const length = sequenceLength(this.#config.shape)
    const timings: GraphTimings = {}
    const images = new Tensor('uint8', pixels, [lengths.length, imageSize, imageSize, 3])
    const latents = (await this.#runInParts('encoder', 'images', images, 'latents', timings)) as Float32Array
    const tokens = new Uint16Array(lengths.length * length)
    let start = 0
    for (const [index, end] of stages.entries()) {
      const shortEnough = lengths.findIndex((wanted) => wanted <= start)
      const rows = shortEnough === -1 ? lengths.length : shortEnough
      if (rows === 0) break
      const feeds: Record<string, Tensor> = {
        latents: new Tensor('float32', latents.subarray(0, rows * latent.count * latent.width), [
          rows,
          latent.count,
          latent.width,
        ]),
      }
      if (start > 0) {
        const prefix = new Int32Array(rows * start)
        for (let row = 0; row < rows; row++) {
          prefix.set(tokens.subarray(row * length, row * length + start), row * start)
        }
        feeds.prefix = new Tensor('int32', prefix, [rows, start])
      }
      const stage = (await this.#run(stageName(index), feeds, 'tokens', timings)) as Int32Array
      const width = end - start
      for (let row = 0; row < rows; row++) {
        tokens.set(stage.subarray(row * width, (row + 1) * width), row * length + start)
      }
      start = end
    }
    return { tokens, timings }
  }

  async decode({ tokens }: DecodeBatch): Promise<DecodeResult> {
    const length = sequenceLength(this.#config.shape)
    const timings: GraphTimings = {}
    const rows = new Tensor('int32', tokens, [tokens.length / length, length])
    const pixels = (await this.#runInParts('decoder', 'tokens', rows, 'images', timings)) as Uint8Array
    return { pixels, timings }
  }

  /** Runs a graph that has one input on one part of the batch after the other. */
  async #runInParts(
    name: string,
    input: string,
    { type, data, dims: [rows = 0, ...shape] }: Tensor,
    output: string,
    timings: GraphTimings,
  ): Promise<Numbers> {
    const width = data.length / rows
    const outputs: Numbers[] = []
    for (const [start, end] of partsOf(rows, largestPart(this.#config))) {
      const part = new Tensor(type, (data as Numbers).subarray(start * width, end * width), [end - start, ...shape])
      outputs.push(await this.#run(name, { [input]: part }, output, timings))
    }
    return joinParts(outputs)
  }

  /** Runs a graph at one of the plan's sizes where they are pinned; no row of the output is one that was filled in. */
  async #run(name: string, inputs: Record<string, Tensor>, output: string, timings: GraphTimings): Promise<Numbers> {
    const started = performance.now()
    const rows = Object.values(inputs)[0]?.dims[0] ?? 0
    const count = rowsToRun(rows, this.#config.batches)
    const feeds = Object.entries(inputs).map(([input, { type, data, dims }]) => {
      return [input, new Tensor(type, fillRows(data as Numbers, rows, count), [count, ...dims.slice(1)])]
    })
    const outputs = await this.#sessions.get(name)?.run(Object.fromEntries(feeds))
    timings[name] = (timings[name] ?? 0) + performance.now() - started
    const numbers = outputs?.[output]?.data as Numbers | undefined
    if (!numbers) throw new Error(`${name} gave no ${output}`)
    return numbers.subarray(0, (numbers.length / count) * rows)
  }
}

// The hash is checked again on the bytes that are loaded: an engine that replaces another must not pick up a file that
// changed on disk meanwhile, since its tokens would mean something else.
async function loadGraph(graph: Graph, config: EngineConfig): Promise<InferenceSession> {
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
