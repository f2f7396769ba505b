// The baseline: the same images through the service's own image code and the engine's own model, batch after batch in
// one process with one thread, without HTTP and without a queue. Prints JSON; bench/race.ts starts it.
import '../src/formats/thread-pool.ts'
import { parseArgs } from 'node:util'
import { decodeImage } from '../src/formats/decode-image.ts'
import { encodeImage } from '../src/formats/encode-image.ts'
import { readBundle } from '../src/inference/bundle.ts'
import { cachedGraphs, cacheFolder } from '../src/inference/cache/cache.ts'
import { LoadedModel } from '../src/inference/engine/loaded-model.ts'
import { sequenceLength } from '../src/inference/graphs.ts'
import { planBatches } from '../src/inference/sizing.ts'
import { readImages } from '../tools/images.ts'
import { percentile, summarize } from '../tools/statistics.ts'

const PNG_IGNORES_QUALITY = 0

/** Measures one batch size for the given time. */
export interface BaselineResult {
  batch: number
  /** Whether encoder and decoder run on parts of the batch, as in an engine. Only older results are without. */
  inParts: boolean
  imagesPerSecond: number
  cpuMsPerImage: number
  /** Of a whole batch. */
  latencyMs: { p50: number; p95: number; p99: number }
  memoryMiB: number
}

/** Milliseconds in the `mocet` graphs, by the number of tokens they were run for. */
export interface StageResult {
  batch: number
  milliseconds: Record<number, number>
}

/** A run with `--work tokens`: the tokens of every image. */
export type TokensResult = number[][]

const { values } = parseArgs({
  options: {
    work: { type: 'string', default: 'encode' },
    images: { type: 'string', default: '' },
    model: { type: 'string', default: '' },
    batches: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '1' },
  },
})
const milliseconds = Number(values.seconds) * 1000
const bundle = await readBundle(values.model)
const { shape } = bundle
// As an engine on the CPU loads them.
const graphs = await cachedGraphs(bundle, cacheFolder(process.env.NATIVETOK_CACHE, process.env), {
  info: () => {},
  warn: (fields, message) => console.error(message, fields),
})
const model = await LoadedModel.load({
  ...{ graphs, shape, provider: 'cpu', device: 0, threads: 1, tf32: false },
  batches: planBatches('cpu'),
})
const size = shape.imageSize
const length = sequenceLength(shape)
const files = (await readImages(values.images)).map(({ body }) => body)
const rows = ['encode', 'stages'].includes(values.work) ? [] : await tokensOf(files)

console.log(JSON.stringify(await resultOf(values.work)))

async function resultOf(work: string): Promise<BaselineResult[] | StageResult[] | TokensResult> {
  if (work === 'tokens') return rows.map((row) => Array.from(row))
  if (work === 'stages') return [await stages(1), await stages(32)]
  const results: BaselineResult[] = []
  for (const batch of values.batches.split(',').map(Number)) results.push(await measure(work, batch))
  return results
}

/** Runs batch after batch until the time is up. */
async function measure(work: string, batch: number): Promise<BaselineResult> {
  const run = async (first: number) => {
    if (work !== 'decode') await encode(wrapped(files, first, batch))
    if (work !== 'encode') await decode(wrapped(rows, first, batch))
  }
  await run(0)
  const latencies: number[] = []
  const cpu = process.cpuUsage()
  const start = performance.now()
  let last = start
  while (last - start < milliseconds) {
    await run(latencies.length * batch)
    const now = performance.now()
    latencies.push(now - last)
    last = now
  }
  const { user, system } = process.cpuUsage(cpu)
  const images = latencies.length * batch * (work === 'mix' ? 2 : 1)
  latencies.sort((a, b) => a - b)
  return {
    batch,
    inParts: true,
    imagesPerSecond: images / ((last - start) / 1000),
    cpuMsPerImage: (user + system) / 1000 / images,
    latencyMs: { p50: percentile(latencies, 50), p95: percentile(latencies, 95), p99: percentile(latencies, 99) },
    memoryMiB: process.memoryUsage.rss() / 2 ** 20,
  }
}

/** The first stage alone, alternating with all stages, on the same images. */
async function stages(batch: number): Promise<StageResult> {
  const pixels = await pixelsOf(wrapped(files, 0, batch))
  const lengths = [shape.stages[0] as number, length]
  const taken = lengths.map((): number[] => [])
  const end = performance.now() + milliseconds
  do {
    for (const [i, wanted] of lengths.entries()) {
      const { timings } = await model.encode({ pixels, lengths: new Array<number>(batch).fill(wanted) })
      const { encoder, ...mocet } = timings
      taken[i]?.push(Object.values(mocet).reduce((sum, ms) => sum + ms, 0))
    }
  } while (performance.now() < end)
  const medians = lengths.map((wanted, i) => [wanted, summarize(taken[i] as number[]).median])
  return { batch, milliseconds: Object.fromEntries(medians) }
}

async function encode(images: Buffer[]): Promise<Uint16Array[]> {
  const lengths = new Array<number>(images.length).fill(length)
  const { tokens } = await model.encode({ pixels: await pixelsOf(images), lengths })
  return images.map((_, row) => tokens.subarray(row * length, (row + 1) * length))
}

async function decode(sequences: Uint16Array[]): Promise<Buffer[]> {
  const tokens = new Int32Array(sequences.length * length)
  for (const [row, sequence] of sequences.entries()) tokens.set(sequence, row * length)
  const { pixels } = await model.decode({ tokens })
  const bytes = pixels.length / sequences.length
  return Promise.all(
    sequences.map((_, row) =>
      encodeImage(pixels.subarray(row * bytes, (row + 1) * bytes), size, 'png', PNG_IGNORES_QUALITY),
    ),
  )
}

async function pixelsOf(images: Buffer[]): Promise<Buffer> {
  const options = { size, maxPixels: Number.MAX_SAFE_INTEGER }
  return Buffer.concat(await Promise.all(images.map((image) => decodeImage(image, options))))
}

async function tokensOf(images: Buffer[]): Promise<Uint16Array[]> {
  const tokens: Uint16Array[] = []
  for (const image of images) tokens.push(...(await encode([image])))
  return tokens
}

/** `count` items from `first` on, beginning again at the end. */
function wrapped<T>(items: T[], first: number, count: number): T[] {
  return Array.from({ length: count }, (_, i) => items[(first + i) % items.length] as T)
}
