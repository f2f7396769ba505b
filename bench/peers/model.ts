import { InferenceSession, Tensor } from 'onnxruntime-node'
import { readBundle } from '../../src/inference/bundle.ts'
import { type ModelShape, sequenceLength, stageName } from '../../src/inference/graphs.ts'

/** A bundle's graphs as `onnxruntime-node`'s documentation shows it, one image at a time: no queue, no other process. */
export class Model {
  readonly shape: ModelShape
  readonly #sessions: Map<string, InferenceSession>

  private constructor(shape: ModelShape, sessions: Map<string, InferenceSession>) {
    this.shape = shape
    this.#sessions = sessions
  }

  /** @param threads threads that a graph runs on */
  static async load(folder: string, threads: number): Promise<Model> {
    const { shape, graphs } = await readBundle(folder)
    const sessions = new Map<string, InferenceSession>()
    for (const { name, path } of graphs) {
      sessions.set(name, await InferenceSession.create(path, { intraOpNumThreads: threads }))
    }
    return new Model(shape, sessions)
  }

  /** @param pixels uint8 `[H,W,3]` */
  async encode(pixels: Uint8Array): Promise<number[]> {
    const { imageSize, stages } = this.shape
    const images = new Tensor('uint8', pixels, [1, imageSize, imageSize, 3])
    const latents = await this.#run('encoder', { images }, 'latents')
    const tokens: number[] = []
    for (const stage of stages.keys()) {
      const prefix = new Tensor('int32', Int32Array.from(tokens), [1, tokens.length])
      const feeds: Record<string, Tensor> = stage === 0 ? { latents } : { latents, prefix }
      tokens.push(...((await this.#run(stageName(stage), feeds, 'tokens')).data as Int32Array))
    }
    return tokens
  }

  /** @returns pixels, uint8 `[H,W,3]` */
  async decode(tokens: readonly number[]): Promise<Uint8Array> {
    // The id after the codebook's last stands for a token that is not there.
    const sequence = new Int32Array(sequenceLength(this.shape)).fill(this.shape.codebook.size)
    sequence.set(tokens)
    const feeds = { tokens: new Tensor('int32', sequence, [1, sequence.length]) }
    return (await this.#run('decoder', feeds, 'images')).data as Uint8Array
  }

  async #run(name: string, feeds: Record<string, Tensor>, output: string): Promise<Tensor> {
    return (await this.#sessions.get(name)?.run(feeds))?.[output] as Tensor
  }
}
