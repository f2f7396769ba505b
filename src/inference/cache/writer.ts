// A process that writes one entry of the cache. It is separate because it holds every weight three times while it does.
import { open, readFile, rename, writeFile } from 'node:fs/promises'
import { constants, setPriority } from 'node:os'
import { join } from 'node:path'
import { env } from 'onnxruntime-node'
import { LoadedModel } from '../engine/loaded-model.ts'
import type { EngineConfig } from '../engine/protocol.ts'
import { loadGraph } from '../engine/session.ts'
import { messageOf } from '../errors.ts'
import { copiesWeights } from '../graphs.ts'
import { alignWeights } from './align.ts'
import { filesOf, listEntry } from './entry.ts'

/** What to write, where, and the name of the entry. */
export interface WriterOrder {
  config: EngineConfig
  /** Empty; it gets its name when it is complete. */
  folder: string
  name: string
}

/** `problem`: why there is no entry, in a sentence. */
export interface WriterReply {
  problem?: string
}

/**
 * Saves what ONNX Runtime makes of every graph, then runs both on the same images.
 * @throws Error when a graph cannot be saved or loaded, or gives other tokens or pixels.
 */
async function writeEntry({ config, folder, name }: WriterOrder): Promise<void> {
  const { graphs } = config
  const own = await LoadedModel.load(config, (graph) => {
    const { file, weights } = filesOf(graph)
    return loadGraph(graph, config, copiesWeights(graph) ? { saveAs: { file: join(folder, file), weights } } : {})
  })
  const counts = [1, config.batches.part]
  const expected: Buffer[] = []
  for (const count of counts) expected.push(await run(own, config, count))
  await own.release()
  for (const graph of graphs.filter(copiesWeights)) {
    const { file, weights } = filesOf(graph)
    await align(join(folder, file), join(folder, weights))
  }
  const listed = { ...config, graphs: await listEntry(folder, name, graphs) }
  const cached = await LoadedModel.load(listed, (graph) =>
    loadGraph(graph, listed, graph.optimised && { optimised: graph.optimised }),
  )
  for (const [i, count] of counts.entries()) {
    if (expected[i]?.equals(await run(cached, config, count))) continue
    throw new Error('the optimised graphs give other tokens or pixels than the bundle')
  }
}

/** Aligns the weights of a saved graph. */
async function align(path: string, weights: string): Promise<void> {
  const { model, moves, bytes } = alignWeights(await readFile(path))
  await writeFile(path, model)
  // ONNX Runtime writes no file of weights when all are small.
  const saved = await open(weights, moves.length > 0 ? 'r' : 'w')
  const aligned = await open(`${weights}.aligned`, 'wx')
  try {
    await aligned.truncate(bytes)
    for (const { from, length, to } of moves) {
      const piece = Buffer.allocUnsafe(length)
      if ((await saved.read(piece, 0, length, from)).bytesRead < length) throw new Error(`${weights} is cut off`)
      for (let done = 0; done < length; ) {
        done += (await aligned.write(piece, done, length - done, to + done)).bytesWritten
      }
    }
  } finally {
    await saved.close()
    await aligned.close()
  }
  await rename(`${weights}.aligned`, weights)
}

/** Tokens and pixels of `count` images of noise. */
async function run(model: LoadedModel, { shape }: EngineConfig, count: number): Promise<Buffer> {
  const pixels = new Uint8Array(count * shape.imageSize ** 2 * 3)
  // The same noise each time: a linear congruential generator's upper bits.
  for (let i = 0, state = 1; i < pixels.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    pixels[i] = state >>> 24
  }
  const { tokens } = await model.encode({ pixels, lengths: new Array<number>(count).fill(shape.stages.at(-1) ?? 0) })
  const pictures = await model.decode({ tokens: Int32Array.from(tokens) })
  return Buffer.concat([Buffer.from(tokens.buffer), pictures.pixels])
}

process.once('message', async (order: WriterOrder) => {
  const reply = await writeEntry(order).then(
    (): WriterReply => ({}),
    (error: unknown): WriterReply => ({ problem: messageOf(error) }),
  )
  process.send?.(reply)
})
process.on('disconnect', () => process.exit(0))
setPriority(constants.priority.PRIORITY_BELOW_NORMAL)
// Only this user may write to the entry.
process.umask(0o022)
env.logLevel = 'error'
