// The data-set tokenizer beside a bare loop over the same images and beside the service with 32 clients; see `--help`.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { link, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { readBundle } from '../src/inference/bundle.ts'
import { usableCores } from '../src/inference/sizing.ts'
import { encodeCalls } from '../tools/calls.ts'
import type { LoadResult } from '../tools/clients.ts'
import { fullPhotos, imagesIn, makeCrops, readImages } from '../tools/images.ts'
import { memoryMiB } from '../tools/process-tree.ts'
import { runScript } from '../tools/script.ts'
import { root } from '../tools/service.ts'
import type { BaselineResult } from './baseline.ts'
import { type Contestant, contestants } from './contestants.ts'
import { describeMachine } from './machine.ts'
import { startContestant } from './race.ts'
import { targetTable } from './report.ts'
import { BATCHES, CLIENTS, type MemoryRow, type TokenizeRow, tokenizeTargets } from './tokenize-targets.ts'

const usage = `npm run bench:tokenize -- [options]
  --rounds <n>      rounds; each measures the bare loop, the command and the service in turn (default 3)
  --seconds <s>     length of one measurement (default 15)
  --format <name>   the command's output format (default npy)
  --soak <n>        images of the run whose memory is watched; 0 leaves it out (default 50000)
  --model <folder>  the bundle (default models/nativetok-128)
  --out <folder>    for tokenize.json (default bench/results)`

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '15' },
    format: { type: 'string', default: 'npy' },
    soak: { type: 'string', default: '50000' },
    model: { type: 'string', default: join(root, 'models/nativetok-128') },
    out: { type: 'string', default: join(import.meta.dirname, 'results') },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}
const [rounds, seconds, soak] = [Number(options.rounds), Number(options.seconds), Number(options.soak)]
const { model, format } = options
const cores = await usableCores()
const place = { model, cores }
const service = contestants.find(({ name }) => name === 'service') as Contestant
const SAMPLE_MS = 1000
const PROGRESS = /^([\d,]+)\/[\d,]+ images/gm

const folder = await mkdtemp(join(tmpdir(), 'bench-'))
try {
  const { shape } = await readBundle(model)
  const { crops } = await makeCrops(folder, shape.imageSize)
  const folders = { crops, photos: fullPhotos }
  const rows: TokenizeRow[] = []
  for (let round = 1; round <= rounds; round++) {
    for (const [load, images] of Object.entries(folders) as [keyof typeof folders, string][]) {
      console.error(`round ${round}/${rounds}, ${load}`)
      const loop = await bareLoop(images)
      const command = await runCommand(images, Math.ceil(loop * seconds))
      rows.push({ round, load, loop, command: command.imagesPerSecond, service: await serviceWithClients(images) })
    }
  }
  const memory = soak > 0 ? (await runCommand(crops, soak)).memory : []
  const targets = tokenizeTargets(rows, memory)
  await mkdir(options.out, { recursive: true })
  const machine = await describeMachine(cores, model)
  const report = { machine, format, targets, rows, memory }
  await writeFile(join(options.out, 'tokenize.json'), `${JSON.stringify(report, null, 2)}\n`)
  console.log(targetTable(targets))
} finally {
  await rm(folder, { recursive: true })
}

/** Images per second of image code and graphs alone: a process per core, at the fastest of several batch sizes. */
async function bareLoop(images: string): Promise<number> {
  const processes = await Promise.all(
    Array.from({ length: cores }, () =>
      runScript<BaselineResult[]>('bench/baseline.ts', {
        ...{ work: 'encode', images, model, seconds: seconds / BATCHES.length, batches: BATCHES.join() },
      }),
    ),
  )
  return Math.max(
    ...BATCHES.map((_, i) => processes.reduce((sum, results) => sum + (results[i]?.imagesPerSecond ?? 0), 0)),
  )
}

/** Runs the command on so many images: its own figure, which leaves out the start of its engines, and its memory meanwhile. */
async function runCommand(images: string, count: number): Promise<{ imagesPerSecond: number; memory: MemoryRow[] }> {
  const [input, out] = [join(folder, 'input'), join(folder, 'out')]
  await Promise.all([input, out].map((path) => rm(path, { recursive: true, force: true })))
  await linkImages(images, input, count)
  const args = ['tokenize', input, '--out', out, '--model', model, '--format', format, '--provider', 'cpu']
  const child = spawn(join(root, 'bin/nativetok'), args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk
  })
  const memory: MemoryRow[] = []
  const watched = watch(child, () => said, memory)
  const [status] = await once(child, 'close')
  await watched
  const pace = /, ([\d.]+) images\/s$/m.exec(said.trim().split('\n').at(-1) ?? '')?.[1]
  if (status !== 0 || pace === undefined) throw new Error(`the command ended with ${status}: ${said}`)
  return { imagesPerSecond: Number(pace), memory }
}

/** Reads the memory of the command and its engines from time to time, with how many images it says are done. */
async function watch(child: ChildProcess, said: () => string, memory: MemoryRow[]): Promise<void> {
  while (child.exitCode === null) {
    const images = Number([...said().matchAll(PROGRESS)].at(-1)?.[1]?.replaceAll(',', '') ?? 0)
    const size = await memoryMiB(child.pid as number)
    if (images > 0 && size > 0) memory.push({ images, memoryMiB: Math.round(size) })
    await sleep(SAMPLE_MS)
  }
}

async function linkImages(images: string, input: string, count: number): Promise<void> {
  await mkdir(input)
  const names = await imagesIn(images)
  // A link costs nothing, but the photos may be on another disk than the folder for temporary files.
  const contents = await Promise.all(names.map((name) => readFile(join(images, name))))
  const kept = join(folder, 'kept')
  await rm(kept, { recursive: true, force: true })
  await mkdir(kept)
  for (const [i, content] of contents.entries()) await writeFile(join(kept, names[i] as string), content)
  for (let i = 0; i < count; i++) {
    const name = names[i % names.length] as string
    await link(join(kept, name), join(input, `${String(i).padStart(8, '0')}-${name}`))
  }
}

/** Images per second that the service gives 32 clients on the same cores. */
async function serviceWithClients(images: string): Promise<number> {
  const [first] = await encodeCalls((await readImages(images)).slice(0, 1), 1)
  if (first === undefined) throw new Error('there are no images')
  const server = await startContestant(service, place, first)
  try {
    const result = await runScript<LoadResult>('tools/clients.ts', {
      ...{ url: server.url, pid: server.pid, route: 'encode', clients: CLIENTS, seconds, photos: images },
    })
    return result.imagesPerSecond
  } finally {
    await server.stop()
  }
}
