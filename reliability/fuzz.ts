import { mkdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { conforming } from '../tools/contract.ts'
import { Random } from '../tools/random.ts'
import { Service } from '../tools/service.ts'
import { mutate } from './mutate.ts'
import { fixture, smallFiles, smallPhotos } from './photos.ts'
import type { Finding, Scope } from './promise.ts'

const CONCURRENCY = 16
const GOOD_EVERY = 50
const DEADLINE_MS = 30_000

/** A request to send, with its whole body in memory. */
interface Hostile {
  path: '/encode' | '/decode'
  type: string
  body: Buffer<ArrayBuffer>
}

interface Seen {
  statuses: Map<number, number>
  slowestMs: number
  wrong: string[]
  good: number
}

/** Randomly damaged files and bodies, among good requests that must not be affected. */
export async function* fuzz({ long, seed }: Scope): AsyncGenerator<Finding> {
  const files = await smallFiles()
  const photos = await smallPhotos()
  const arrays = await Promise.all(
    ['images-other-size', 'tokens-uint16', 'tokens-version-2', 'tokens-int64-1d', 'tokens-3d'].map((name) =>
      fixture(`numpy/${name}.npy`),
    ),
  )
  const folder = join(tmpdir(), `nativetok-fuzz-${seed}`)
  const count = long ? 20_000 : 1500
  // After this many of each kind, a service has allocated what it keeps using.
  const warmUp = count / 5
  const service = await Service.start()
  try {
    const engines = (await service.engines()).sort().join()
    const tokens = await Promise.all(photos.map((photo) => tokensOf(service, photo)))
    const good = async (n: number) => {
      const own = n % photos.length
      const answer = await tokensOf(service, photos[own] as Buffer<ArrayBuffer>)
      if (answer !== tokens[own]) throw new Error('a good request got other tokens than its own')
    }
    const images = (n: number) => imageRequest(new Random(seed, 1, n), files, photos)
    const others = (n: number) => bodyRequest(new Random(seed, 2, n), files, arrays)
    const run = (make: (n: number) => Hostile, from: number, to: number, kind: string) =>
      sendAll(service, make, from, to, good, (n, request, why) => keep(folder, `${kind}-${n}`, request, why))

    await run(images, count, count + warmUp, 'image')
    await run(others, count, count + warmUp, 'body')
    const before = await service.memoryMiB()
    for (const [kind, what, make] of [
      ['image', 'damaged image files', images],
      ['body', 'damaged NumPy, JSON and multipart bodies', others],
    ] as const) {
      const { statuses, slowestMs, wrong, good } = await run(make, 0, count, kind)
      const counts = [...statuses].sort(([a], [b]) => a - b).map(([status, n]) => `${n} x ${status}`)
      yield {
        promise: `${what} are answered within the deadline and as the contract says`,
        figure: `${count} requests: ${counts.join(', ')}; slowest ${(slowestMs / 1000).toFixed(1)} s${saying(wrong, folder)}`,
        kept: wrong.length === 0,
      }
      yield {
        promise: `good requests among ${what} get their own tokens`,
        figure: `${good} of ${Math.ceil(count / GOOD_EVERY)}`,
        kept: good === Math.ceil(count / GOOD_EVERY),
      }
    }
    const after = await service.memoryMiB()
    yield {
      promise: 'damaged input does not make memory grow',
      figure: `${before.toFixed(0)} MiB after ${2 * warmUp} requests, ${after.toFixed(0)} MiB after ${2 * count} more: ${(after / before).toFixed(2)} times`,
      kept: after < before * 1.25,
    }
    const alive = !service.ended && (await service.engines()).sort().join() === engines
    const logged = service.lines.filter(({ level }) => Number(level) >= 50).length
    yield {
      promise: 'damaged input ends no process',
      figure: `${alive ? 'the server and its engines are the same as at the start' : 'a process was replaced'}; ${logged} errors logged`,
      kept: alive && logged === 0,
    }
  } finally {
    await service.kill()
  }
}

/** Sends requests `from` to `to`, several at a time, and a good one with every fiftieth. */
async function sendAll(
  service: Service,
  make: (n: number) => Hostile,
  from: number,
  to: number,
  good: (n: number) => Promise<void>,
  failed: (n: number, request: Hostile, why: string) => Promise<void>,
): Promise<Seen> {
  const seen: Seen = { statuses: new Map(), slowestMs: 0, wrong: [], good: 0 }
  let next = from
  const work = async () => {
    for (let n = next++; n < to && !service.ended; n = next++) {
      if ((n - from) % GOOD_EVERY === 0) {
        await good(n).then(
          () => seen.good++,
          (error) => seen.wrong.push(`beside request ${n}: ${messageOf(error)}`),
        )
      }
      const request = make(n)
      const start = performance.now()
      try {
        const { status } = await answerTo(service, request)
        seen.statuses.set(status, (seen.statuses.get(status) ?? 0) + 1)
        if (status >= 500) throw new Error(`status ${status}`)
      } catch (error) {
        seen.wrong.push(`request ${n}: ${messageOf(error)}`)
        await failed(n, request, messageOf(error))
      }
      seen.slowestMs = Math.max(seen.slowestMs, performance.now() - start)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, work))
  return seen
}

/** @throws Error if the answer is late or does not conform to the contract */
async function answerTo(service: Service, { path, type, body }: Hostile): Promise<Response> {
  const signal = AbortSignal.timeout(DEADLINE_MS + 2000)
  const headers = { 'content-type': type }
  const answer = await fetch(`${service.url}${path}`, { method: 'POST', body, headers, signal })
  await conforming('POST', path, answer)
  return answer
}

/** The tokens of a good image, as text. */
async function tokensOf(service: Service, photo: Buffer<ArrayBuffer>): Promise<string> {
  const answer = await fetch(`${service.url}/encode`, {
    method: 'POST',
    body: photo,
    headers: { 'content-type': 'image/webp' },
  })
  return JSON.stringify(((await answer.json()) as { tokens?: unknown }).tokens)
}

const imageTypes = ['image/jpeg', 'image/png', 'image/webp', 'image/avif', 'image/gif', 'image/tiff']

/** A damaged image, mostly alone, sometimes among good ones. */
function imageRequest(random: Random, files: Buffer[], photos: Buffer[]): Hostile {
  const image = mutate(random.pick(files), random, files)
  if (random.below(10) < 7) return request('/encode', random.pick(imageTypes), image)
  const images = [image, random.pick(photos)]
  if (random.oneIn(2)) images.reverse()
  return random.oneIn(2) ? multipart(images) : jsonOf({ images: images.map((file) => file.toString('base64')) })
}

/** A damaged body of another kind. */
function bodyRequest(random: Random, files: Buffer[], arrays: Buffer[]): Hostile {
  const good: Hostile[] = [
    request('/decode', 'application/x-npy', random.pick(arrays)),
    request('/encode', 'application/x-npy', random.pick(arrays)),
    jsonOf({ tokens: random.oneIn(2) ? tokens(random) : [tokens(random), tokens(random)] }),
    jsonOf({ images: [random.pick(files).toString('base64')] }),
    multipart([random.pick(files), random.pick(files)]),
  ]
  const { path, type, body } = random.pick(good)
  const others = good.map((one) => one.body)
  return request(path, type, mutate(body, random, others))
}

function tokens(random: Random): number[] {
  return Array.from({ length: 1 + random.below(128) }, () => random.below(4096))
}

function request(path: Hostile['path'], type: string, body: Buffer): Hostile {
  return { path, type, body: Buffer.from(body) }
}

function jsonOf(body: { images: string[] } | { tokens: unknown }): Hostile {
  return request('images' in body ? '/encode' : '/decode', 'application/json', Buffer.from(JSON.stringify(body)))
}

function multipart(images: Buffer[]): Hostile {
  const head = '--b\r\nContent-Disposition: form-data; name="images"; filename="i"\r\nContent-Type: image/png\r\n\r\n'
  const parts = images.flatMap((image) => [Buffer.from(head), image, Buffer.from('\r\n')])
  return request('/encode', 'multipart/form-data; boundary=b', Buffer.concat([...parts, Buffer.from('--b--\r\n')]))
}

/** Writes a failed request to a file, so that it can be sent again. */
async function keep(folder: string, name: string, { path, type, body }: Hostile, why: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, `${name}.body`), body)
  await writeFile(join(folder, `${name}.json`), `${JSON.stringify({ path, type, why }, null, 2)}\n`)
}

function saying(wrong: string[], folder: string): string {
  return wrong.length === 0 ? '' : `; ${wrong.length} wrong, kept in ${folder}; first ${wrong[0]}`
}

function messageOf(error: unknown): string {
  const { message, cause } = error as Error
  return cause instanceof Error ? `${message}: ${cause.message}` : message
}
