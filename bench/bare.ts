// The limit: the same images through the same decoder, graphs and encoder in a plain loop of this one process on one
// thread, without HTTP. Prints JSON; bench/race.ts starts it.
import '../src/formats/thread-pool.ts'
import { parseArgs } from 'node:util'
import { decodeImage } from '../src/formats/decode-image.ts'
import { encodeImage } from '../src/formats/encode-image.ts'
import { planBatches } from '../src/inference/sizing.ts'
import { readImages } from './images.ts'
import { Model } from './model.ts'
import { percentile } from './statistics.ts'

const PNG_IGNORES_QUALITY = 0

/** One batch size, for as long as asked. */
export interface LimitResult {
  batch: number
  /** Whether encoder and decoder run on parts of the batch, as in an engine. */
  cut: boolean
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
const model = await Model.load(values.model, 1)
const size = model.shape.imageSize
const { part } = planBatches('cpu')
const files = (await readImages(values.images)).map(({ body }) => body)
const rows = ['encode', 'stages'].includes(values.work) ? [] : await tokensOf(files)

console.log(JSON.stringify(await resultOf(values.work)))

async function resultOf(work: string): Promise<LimitResult[] | StageResult[] | TokensResult> {
  if (work === 'tokens') return rows.map((row) => Array.from(row))
  if (work === 'stages') return [await stages(1), await stages(32)]
  const results: LimitResult[] = []
  for (const batch of values.batches.split(',').map(Number)) {
    for (const cut of batch > part ? [false, true] : [false]) results.push(await measure(work, batch, cut))
  }
  return results
}

/** Runs batch after batch until the time is up. */
async function measure(work: string, batch: number, cut: boolean): Promise<LimitResult> {
  const most = cut ? part : batch
  const run = async (first: number) => {
    if (work !== 'decode') await encode(wrapped(files, first, batch), most)
    if (work !== 'encode') await decode(wrapped(rows, first, batch), most)
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
    cut,
    imagesPerSecond: images / ((last - start) / 1000),
    cpuMsPerImage: (user + system) / 1000 / images,
    latencyMs: { p50: percentile(latencies, 50), p95: percentile(latencies, 95), p99: percentile(latencies, 99) },
    memoryMiB: process.memoryUsage.rss() / 2 ** 20,
  }
}

/** The first stage alone beside all of them, on the same latents, in turn. */
async function stages(batch: number): Promise<StageResult> {
  const latents = await model.latents(await pixelsOf(wrapped(files, 0, batch)))
  const counts = [1, model.shape.stages.length]
  const taken = counts.map((): number[] => [])
  const end = performance.now() + milliseconds
  do {
    for (const [i, count] of counts.entries()) {
      const start = performance.now()
      await model.tokens(latents, count)
      taken[i]?.push(performance.now() - start)
    }
  } while (performance.now() < end)
  const median = (i: number) =>
    percentile(
      (taken[i] as number[]).toSorted((a, b) => a - b),
      50,
    )
  const length = (i: number) => model.shape.stages[(counts[i] as number) - 1] as number
  return { batch, milliseconds: { [length(0)]: median(0), [length(1)]: median(1) } }
}

async function encode(images: Buffer[], most: number): Promise<Int32Array[]> {
  return model.tokens(await model.latents(await pixelsOf(images), most))
}

async function decode(sequences: Int32Array[], most: number): Promise<Buffer[]> {
  const pictures = await model.decode(sequences, most)
  return Promise.all(pictures.map((pixels) => encodeImage(pixels, size, 'png', PNG_IGNORES_QUALITY)))
}

function pixelsOf(images: Buffer[]): Promise<Buffer[]> {
  return Promise.all(images.map((image) => decodeImage(image, { size, maxPixels: Number.MAX_SAFE_INTEGER })))
}

async function tokensOf(images: Buffer[]): Promise<Int32Array[]> {
  const tokens: Int32Array[] = []
  for (const image of images) tokens.push(...(await encode([image], 1)))
  return tokens
}

/** `count` items from `first` on, beginning again at the end. */
function wrapped<T>(items: T[], first: number, count: number): T[] {
  return Array.from({ length: count }, (_, i) => items[(first + i) % items.length] as T)
}
