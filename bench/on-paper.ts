// How long ImageNet takes on many machines: computed, not measured. Prints the tables of docs/cluster.md:
//   bin/node bench/on-paper.ts

/** ILSVRC 2012's training images; the size of its tar, 147,897,477,120 bytes, over their number, 512-byte headers included. */
export const imagenet = { images: 1_281_167, bytesPerImage: 147_897_477_120 / 1_281_167 }

/** Views per image: ten crops. */
const VIEWS = 10
const CORES = 16
const HOSTS = [1, 8, 64]
const GPUS = [1, 8, 64]

/**
 * Milliseconds of processor time of the default model, from docs/results/benchmark/results.md: the baseline in batches of 64, on
 * Zen 5, without HTTP. A photo is decoded and resized, a crop is a JPEG of 128 pixels.
 */
const measured = { photo: 6.7, crop: 4.63 }
/** Of which a photo's decoding and resizing, from docs/notes/performance.md. */
const DECODE_MS = 2.5
/** Images per second and core of converted models, from docs/performance.md: an engine with two threads on Zen 4, batch 1. */
const converted = { 'TiTok-S-128': 6.93 / 2, 'TiTok-B-64': 1.23 / 2, 'TiTok-L-32': 0.47 / 2 }

/** What a data center offers at one place: Amazon S3's GET requests per prefix, and the network of one file server. */
const limits = { requestsPerSecond: 5500, serverBytesPerSecond: 10e9 / 8 }
/** What a reader of shards asks for at a time. */
const RANGE_BYTES = 8 * 2 ** 20

/** Peak TFLOP/s without sparsity, from NVIDIA's data sheets of the SXM modules. TF32 is `--tf32 on`. */
const cards = { 'A100, float32': 19.5, 'H100, TF32': 494.5 }
/** The share of its peak that a card is assumed to reach. */
const UTILISATION = 0.4

/**
 * Multiply-adds of a transformer block: keys and values of all rows, and query, attention, projection and an MLP of four times
 * the width for those rows whose output is needed.
 */
export function blockMacs(tokens: number, width: number, rows = tokens): number {
  return 2 * width ** 2 * tokens + 10 * width ** 2 * rows + 2 * tokens * rows * width
}

/** Multiply-adds of 256-pixel patches of 16 pixels becoming rows of a width. */
const patchMacs = (width: number) => 256 * 768 * width
const titok = (width: number, layers: number, latents: number) =>
  patchMacs(width) + layers * blockMacs(256 + 1 + latents, width)

/** NativeTok's experts: position `i` reads 258 rows and `i` more through two blocks; of the second only the last row is needed. */
export function expertMacs(positions: number, width: number): number {
  let sum = 0
  for (let i = 0; i < positions; i++) sum += blockMacs(258 + i, width) + blockMacs(258 + i, width, 1)
  return sum
}

/** Multiply-adds to encode an image of 256 pixels, by model. */
export const encodeMacs: Record<string, number> = {
  'TiTok-S-128': titok(512, 8, 128),
  'TiTok-B-64': titok(768, 12, 64),
  'TiTok-L-32': titok(1024, 24, 32),
  'NativeTok-128': patchMacs(1024) + 18 * blockMacs(257, 1024) + expertMacs(128, 256),
}

/** Images per second of a host with the default model. Every view but the first costs as much as a crop, which is too much. */
export function imagesPerSecond(views: number): number {
  return (CORES * 1000) / (measured.photo + (views - 1) * measured.crop)
}

/** The tables of docs/cluster.md, as Markdown. */
export function tables(): string {
  return [hostsTable(), limitsTable(), gpusTable()].join('\n\n')
}

function hostsTable(): string {
  const rate = imagesPerSecond(VIEWS)
  const ours = HOSTS.map((hosts) => {
    const images = hosts * rate
    return row(
      ...[
        `${hosts}`,
        count(images),
        duration(imagenet.images / images),
        `${bandwidth(images * imagenet.bytesPerImage)}`,
      ],
      ...[count(images), count((images * imagenet.bytesPerImage) / RANGE_BYTES)],
      ...Object.values(converted).map((views) => duration((imagenet.images * VIEWS) / (hosts * CORES * views))),
    )
  })
  return [
    row(
      ...['hosts', 'images/s', 'time', 'reads', 'GET/s, one file per image', 'GET/s, shards'],
      ...Object.keys(converted).map((model) => `time, ${model}`),
    ),
    row(...Array(9).fill('---')),
    ...ours,
  ].join('\n')
}

function limitsTable(): string {
  const rows = [VIEWS, 1].map((views) => {
    const images = imagesPerSecond(views)
    const bytes = images * imagenet.bytesPerImage
    return row(
      ...[views === 1 ? 'centre crop' : 'ten crops', count(images), bandwidth(bytes)],
      ...[count(Math.floor(limits.requestsPerSecond / images)), count(Math.floor(limits.serverBytesPerSecond / bytes))],
      count(Math.floor((limits.requestsPerSecond * RANGE_BYTES) / bytes)),
    )
  })
  return [
    row(
      'default model',
      'images/s a host',
      'reads a host',
      'hosts at 5,500 GET/s',
      'hosts at 10 Gbit/s',
      'with shards, 5,500 GET/s',
    ),
    row(...Array(6).fill('---')),
    ...rows,
  ].join('\n')
}

function gpusTable(): string {
  const rows = Object.entries(encodeMacs).flatMap(([model, macs]) =>
    Object.entries(cards).map(([card, tflops]) => {
      const views = (UTILISATION * tflops * 1e12) / (2 * macs)
      return row(
        ...[model, count(macs / 1e9), card, count(views)],
        ...GPUS.map((gpus) => duration((imagenet.images * VIEWS) / (gpus * views))),
        ...[cores((views / VIEWS) * (DECODE_MS / 1000)), cores(views * (DECODE_MS / 1000))],
      )
    }),
  )
  const times = GPUS.map((gpus) => `${gpus} GPU${gpus === 1 ? '' : 's'}`)
  return [
    row('model', 'GMAC', 'card', 'views/s', ...times, 'cores a GPU, ten crops', 'cores a GPU, centre crop'),
    row(...Array(9).fill('---')),
    ...rows,
  ].join('\n')
}

function row(...cells: string[]): string {
  return `| ${cells.join(' | ')} |`
}

/** Two significant digits, since none of this is certain to more; whole numbers from 100 on. */
function count(value: number): string {
  const digits = value < 100 ? 2 : Math.min(3, Math.ceil(Math.log10(value)))
  return Number(value.toPrecision(digits)).toLocaleString('en')
}

function cores(value: number): string {
  return value < 1 ? 'under 1' : count(Math.ceil(value))
}

function bandwidth(bytesPerSecond: number): string {
  return `${count((bytesPerSecond * 8) / 1e9)} Gbit/s`
}

function duration(seconds: number): string {
  if (seconds < 120) return `${count(seconds)} s`
  if (seconds < 2 * 3600) return `${count(seconds / 60)} min`
  if (seconds < 3 * 86_400) return `${count(seconds / 3600)} h`
  return `${count(seconds / 86_400)} days`
}

if (import.meta.main) console.log(tables())
