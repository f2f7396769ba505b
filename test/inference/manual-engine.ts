import assert from 'node:assert/strict'
import type { Engine, EngineEnd } from '../../src/inference/engine/engine.ts'
import type { DecodeBatch, EncodeBatch } from '../../src/inference/engine/protocol.ts'
import type { ModelShape } from '../../src/inference/graphs.ts'

// Images of one pixel: the first byte is the image's id.
export const shape: ModelShape = {
  kind: 'causal',
  prefixes: true,
  imageSize: 1,
  stages: [2, 4],
  handover: 'ids',
  latents: { count: 1, width: 1 },
  state: undefined,
  codebook: { size: 10, dimension: 1 },
}
export const image = (id: number) => Uint8Array.of(id, 0, 0)

export interface Call {
  kind: 'encode' | 'decode'
  ids: number[]
  lengths: number[]
  tokens: number[]
  succeed(): void
  fail(error: Error): void
}

/** An engine whose batches the test answers: image `id` has the tokens id, id+1, id+2, id+3. */
export class ManualEngine implements Engine {
  readonly calls: Call[] = []
  readonly ended = new Promise<EngineEnd>(() => {})
  over = false
  answered = 0
  readonly itemMs = { encode: 1, decode: 1 }

  encode({ pixels, lengths }: EncodeBatch) {
    const ids = lengths.map((_, row) => pixels[row * 3] ?? -1)
    const tokens = Uint16Array.from(ids.flatMap((id) => [id, id + 1, id + 2, id + 3]))
    return this.#call('encode', { ids, lengths, tokens: [] }, { tokens, timings: { encoder: 1 } })
  }

  decode({ tokens }: DecodeBatch) {
    const ids = [...tokens].filter((_, index) => index % 4 === 0)
    const pixels = Uint8Array.from(ids.flatMap((id) => [id, id, id]))
    return this.#call('decode', { ids, lengths: [], tokens: [...tokens] }, { pixels, timings: { decoder: 1 } })
  }

  async close() {}

  /** The batch that waits for an answer. */
  get last(): Call {
    const call = this.calls.at(-1)
    assert.ok(call, 'the engine has a batch')
    return call
  }

  #call<Result>(kind: Call['kind'], call: Pick<Call, 'ids' | 'lengths' | 'tokens'>, result: Result): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.calls.push({ kind, ...call, succeed: () => resolve(result), fail: reject })
    })
  }
}

export const settled = () => new Promise(setImmediate)
