// A bundle's graphs in the service's own engine process, without HTTP and queue: time in each graph by batch size, and
// how far tokens and pixels are those of the CPU. Prints JSON; bench/gpu/run.py starts it.
import { readFile, writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { readBundle } from '../../src/inference/bundle.ts'
import { type Engine, ProcessEngine } from '../../src/inference/engine/engine.ts'
import type { GraphTimings, Provider } from '../../src/inference/engine/protocol.ts'
import { sequenceLength } from '../../src/inference/graphs.ts'
import { planBatches, usableCores } from '../../src/inference/sizing.ts'
import { comparePixels, compareTokens, type PixelAgreement, type TokenAgreement } from './compare.ts'

/** One batch size. */
export interface GraphResult {
  batch: number
  /** Mean of a run, by graph, including copies to and from the device. */
  milliseconds: GraphTimings
  encodeImagesPerSecond: number
  decodeImagesPerSecond: number
  /** Share of the encoding time spent in the `mocet` graphs. */
  mocetShare: number
}

/** What is printed. */
export interface GraphsResult {
  bundle: string
  provider: Provider
  graphs: GraphResult[]
  /** Compared with the CPU: tokens at the first and the last batch size; pixels of the CPU's tokens. */
  tokens: ({ batch: number } & TokenAgreement)[]
  pixels: PixelAgreement
}

const DEADLINE_MS = 600_000

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/nativetok-128' },
    provider: { type: 'string', default: 'cuda' },
    device: { type: 'string', default: '0' },
    tf32: { type: 'string', default: 'off' },
    batches: { type: 'string', default: '1,2,4,8,16,32,64,128,256' },
    seconds: { type: 'string', default: '5' },
    // uint8 [M,H,W,3], and where the CPU's tokens go, uint16 [M,L]; both bare numbers without a header.
    pixels: { type: 'string' },
    tokens: { type: 'string' },
  },
})
const { pixels: pixelsFile, tokens: tokensFile } = options
if (pixelsFile === undefined || tokensFile === undefined) throw new Error('--pixels and --tokens name files')
const provider: Provider = options.provider === 'cpu' ? 'cpu' : 'cuda'
const milliseconds = Number(options.seconds) * 1000
const batches = options.batches.split(',').map(Number)
const [smallest, largest] = [Math.min(...batches), Math.max(...batches)]

const bundle = await readBundle(options.model)
const length = sequenceLength(bundle.shape)
const imageBytes = bundle.shape.imageSize ** 2 * 3
const images = Uint8Array.from(await readFile(pixelsFile))
const count = images.length / imageBytes

try {
  // First, because it is the one that may fail to start.
  const engine = await start(provider, largest)
  const cpu = await start('cpu', planBatches('cpu').max)
  const expected = await encodeAll(cpu, planBatches('cpu').max)
  const pictures = await decodeAll(cpu, expected, planBatches('cpu').max)
  await cpu.close()
  await writeFile(tokensFile, expected)

  const graphs: GraphResult[] = []
  for (const batch of batches) graphs.push(await measure(engine, batch, Int32Array.from(expected)))
  const tokens: GraphsResult['tokens'] = []
  for (const batch of new Set([smallest, largest])) {
    tokens.push({ batch, ...compareTokens(expected, await encodeAll(engine, batch), length) })
  }
  const pixels = comparePixels(pictures, await decodeAll(engine, expected, largest))
  await engine.close()
  const result: GraphsResult = { bundle: bundle.manifest.name, provider, graphs, tokens, pixels }
  console.log(JSON.stringify(result))
} catch (error) {
  console.error(`graphs: ${(error as Error).message}`)
  // A running engine would keep this process alive.
  process.exit(1)
}

async function start(on: Provider, max: number): Promise<Engine> {
  const { graphs, shape } = bundle
  const [device, threads, tf32] = [Number(options.device), await usableCores(), options.tf32 === 'on']
  return ProcessEngine.start({
    config: { graphs, shape, provider: on, device, threads, tf32, batches: planBatches(on, max) },
    timeoutMs: DEADLINE_MS,
    child: new URL('../../src/inference/engine/child.ts', import.meta.url),
    onStderr: (line) => console.error(line),
  })
}

async function measure(engine: Engine, batch: number, tokens: Int32Array): Promise<GraphResult> {
  const lengths = new Array<number>(batch).fill(length)
  const encode = await meanTimes((first) =>
    engine.encode({ pixels: rowsOf(new Uint8Array(batch * imageBytes), images, imageBytes, first), lengths }),
  )
  const decode = await meanTimes((first) =>
    engine.decode({ tokens: rowsOf(new Int32Array(batch * length), tokens, length, first) }),
  )
  const [encodeMs, decodeMs] = [sum(encode), sum(decode)]
  return {
    batch,
    milliseconds: { ...encode, ...decode },
    encodeImagesPerSecond: (batch * 1000) / encodeMs,
    decodeImagesPerSecond: (batch * 1000) / decodeMs,
    mocetShare: 1 - (encode.encoder ?? 0) / encodeMs,
  }
}

/** Runs repeatedly until the time is up, on images from `first` on, after one run that does not count. */
async function meanTimes(run: (first: number) => Promise<{ timings: GraphTimings }>): Promise<GraphTimings> {
  await run(0)
  const total: GraphTimings = {}
  const end = performance.now() + milliseconds
  let runs = 0
  do {
    const { timings } = await run(runs++)
    for (const [name, ms] of Object.entries(timings)) total[name] = (total[name] ?? 0) + ms
  } while (performance.now() < end)
  return Object.fromEntries(Object.entries(total).map(([name, ms]) => [name, ms / runs]))
}

async function encodeAll(engine: Engine, batch: number): Promise<Uint16Array> {
  const tokens = new Uint16Array(count * length)
  for (let first = 0; first < count; first += batch) {
    const pixels = images.subarray(first * imageBytes, (first + batch) * imageBytes)
    const lengths = new Array<number>(pixels.length / imageBytes).fill(length)
    tokens.set((await engine.encode({ pixels, lengths })).tokens, first * length)
  }
  return tokens
}

async function decodeAll(engine: Engine, tokens: Uint16Array, batch: number): Promise<Uint8Array> {
  const pixels = new Uint8Array(images.length)
  for (let first = 0; first < count; first += batch) {
    const sequences = Int32Array.from(tokens.subarray(first * length, (first + batch) * length))
    pixels.set((await engine.decode({ tokens: sequences })).pixels, first * imageBytes)
  }
  return pixels
}

/** Fills `into` with rows of `from`, from row `first` on, and from row 0 again after the last. */
function rowsOf<Numbers extends Uint8Array | Int32Array>(
  into: Numbers,
  from: Numbers,
  width: number,
  first: number,
): Numbers {
  for (let row = 0; row < into.length / width; row++) {
    const source = ((first + row) % count) * width
    into.set(from.subarray(source, source + width), row * width)
  }
  return into
}

function sum(timings: GraphTimings): number {
  return Object.values(timings).reduce((total, ms) => total + ms, 0)
}
