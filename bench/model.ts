import { InferenceSession, Tensor } from 'onnxruntime-node'
import { readBundle } from '../src/inference/bundle.ts'
import { joinParts, partsOf } from '../src/inference/engine/rows.ts'
import { type ModelShape, sequenceLength, stageName } from '../src/inference/graphs.ts'

/** The graphs of a bundle in this process, run one after the other: no queue, no batching, no other process. */
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

  get length(): number {
    return sequenceLength(this.shape)
  }

  /**
   * @param images pixels of one image each, uint8 `[H,W,3]`
   * @param most images that the graph runs on at once
   */
  async latents(images: Uint8Array[], most = images.length): Promise<Tensor> {
    const { imageSize, latents } = this.shape
    if (!latents) throw new Error('a parallel model has no latents')
    const parts: Float32Array[] = []
    for (const [start, end] of partsOf(images.length, most)) {
      const shape = [end - start, imageSize, imageSize, 3]
      const pixels = new Tensor('uint8', Buffer.concat(images.slice(start, end)), shape)
      parts.push((await this.#run('encoder', { images: pixels }, 'latents')).data as Float32Array)
    }
    return new Tensor('float32', joinParts(parts), [images.length, latents.count, latents.width])
  }

  /**
   * The tokens of the first `stages` stages.
   *
   * @returns a row an image
   */
  async tokens(latents: Tensor, stages = this.shape.stages.length): Promise<Int32Array[]> {
    const count = latents.dims[0] as number
    const rows = Array.from({ length: count }, () => new Int32Array(this.length))
    let start = 0
    for (const [stage, end] of this.shape.stages.slice(0, stages).entries()) {
      const feeds: Record<string, Tensor> =
        start === 0 ? { latents } : { latents, prefix: this.#sequences(rows, start) }
      const next = (await this.#run(stageName(stage), feeds, 'tokens')).data as Int32Array
      const width = end - start
      for (const [i, row] of rows.entries()) row.set(next.subarray(i * width, (i + 1) * width), start)
      start = end
    }
    return rows.map((row) => row.subarray(0, start))
  }

  /**
   * Sequences of any length to pixels, uint8 `[H,W,3]` each.
   *
   * @param most sequences that the graph runs on at once
   */
  async decode(rows: ArrayLike<number>[], most = rows.length): Promise<Uint8Array[]> {
    const size = this.shape.imageSize ** 2 * 3
    const images: Uint8Array[] = []
    for (const [start, end] of partsOf(rows.length, most)) {
      const tokens = this.#sequences(rows.slice(start, end), this.length)
      const pixels = (await this.#run('decoder', { tokens }, 'images')).data as Uint8Array
      for (let at = 0; at < pixels.length; at += size) images.push(pixels.subarray(at, at + size))
    }
    return images
  }

  async #run(name: string, feeds: Record<string, Tensor>, output: string): Promise<Tensor> {
    return (await this.#sessions.get(name)?.run(feeds))?.[output] as Tensor
  }

  /** The first `width` ids of every row; the id after the codebook's last stands for one that is not there. */
  #sequences(rows: ArrayLike<number>[], width: number): Tensor {
    const data = new Int32Array(rows.length * width).fill(this.shape.codebook.size)
    for (const [i, row] of rows.entries()) data.set(Array.prototype.slice.call(row, 0, width), i * width)
    return new Tensor('int32', data, [rows.length, width])
  }
}
