// Load from N keep-alive clients, each sending its next request when it has the answer to the last: `--help` says how.
import { readdir, readFile } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { extname, join } from 'node:path'
import { createHistogram } from 'node:perf_hooks'
import { parseArgs } from 'node:util'

const usage = `npm run bench -- [options]
  --url <url>         server (default http://127.0.0.1:8080); NATIVETOK_API_KEY is sent where set
  --route <name>      encode or decode (default encode)
  --clients <n>       connections, one request at a time on each (default 32)
  --seconds <s>       how long to measure (default 20)
  --images <n>        stop sending after so many images, if that is sooner
  --batch <n>         images or sequences a request (default 1)
  --length <n>        tokens an image (default 128)
  --warm-up <s>       seconds of the same load beforehand that do not count (default 2)
  --photos <folder>   .jpg, .png and .webp files to send (default test/fixtures/photos)`

const types: Record<string, string> = { '.jpg': 'image/jpeg', '.png': 'image/png', '.webp': 'image/webp' }

/** A request ready to send. */
interface Call {
  path: string
  type: string
  body: Buffer
  images: number
}

/** An answer in full: its status and body. */
interface Answer {
  status: number
  body: Buffer
}

const { values: options } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:8080' },
    route: { type: 'string', default: 'encode' },
    clients: { type: 'string', default: '32' },
    seconds: { type: 'string', default: '20' },
    images: { type: 'string', default: 'Infinity' },
    batch: { type: 'string', default: '1' },
    length: { type: 'string', default: '128' },
    'warm-up': { type: 'string', default: '2' },
    photos: { type: 'string', default: join(import.meta.dirname, '..', 'test', 'fixtures', 'photos') },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}
const clients = number('clients')
const batch = number('batch')
const length = number('length')
const key = process.env.NATIVETOK_API_KEY
const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` }

const calls = options.route === 'decode' ? await decodeCalls() : await encodeCalls()
if (number('warm-up') > 0) await load(number('warm-up'), Number.POSITIVE_INFINITY)
const result = await load(number('seconds'), number('images'))
console.log(JSON.stringify({ route: options.route, clients, batch, length, ...result }, null, 2))
if (result.images === 0) process.exitCode = 1

/** Sends `calls` in turn from all clients for `seconds`, or until `images` images were sent, and says how it went. */
async function load(seconds: number, images: number) {
  const latency = createHistogram()
  const errors: Record<string, number> = {}
  const start = performance.now()
  const end = start + seconds * 1000
  let sent = 0
  let done = 0
  let next = 0

  async function client(): Promise<void> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (performance.now() < end && sent < images) {
      const call = calls[next++ % calls.length] as Call
      sent += call.images
      const began = performance.now()
      const error = await send(call, agent).then(
        ({ status }) => (status === 200 ? undefined : String(status)),
        (failure: NodeJS.ErrnoException) => failure.code ?? failure.message,
      )
      if (error === undefined) {
        done += call.images
        latency.record(Math.max(1, Math.round((performance.now() - began) * 1000)))
      } else {
        errors[error] = (errors[error] ?? 0) + 1
      }
    }
    agent.destroy()
  }
  await Promise.all(Array.from({ length: clients }, client))

  const elapsed = (performance.now() - start) / 1000
  const milliseconds = (percentile: number) => (latency.count ? latency.percentile(percentile) / 1000 : null)
  return {
    seconds: Number(elapsed.toFixed(2)),
    requests: latency.count,
    images: done,
    imagesPerSecond: Number((done / elapsed).toFixed(1)),
    latencyMs: { p50: milliseconds(50), p95: milliseconds(95), p99: milliseconds(99), max: milliseconds(100) },
    errors,
  }
}

function send(call: Call, agent?: Agent): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { ...authorization, 'content-type': call.type, 'content-length': call.body.length }
    const url = new URL(call.path, options.url)
    request(url, { method: 'POST', headers, ...(agent && { agent }) }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }))
      response.on('error', reject)
    })
      .on('error', reject)
      .end(call.body)
  })
}

/** One call a photo, or a multipart call a batch; batches start at every photo, so that all are sent equally often. */
async function encodeCalls(): Promise<Call[]> {
  const names = (await readdir(options.photos)).filter((name) => extname(name) in types).sort()
  if (names.length === 0) throw new Error(`no .jpg, .png or .webp files in ${options.photos}`)
  const photos = await Promise.all(
    names.map(async (name) => ({
      type: types[extname(name)] as string,
      body: await readFile(join(options.photos, name)),
    })),
  )
  const path = `/encode?length=${length}`
  if (batch === 1) return photos.map((photo) => ({ path, ...photo, images: 1 }))
  return Promise.all(
    photos.map(async (_, first) => {
      const form = new FormData()
      for (let i = 0; i < batch; i++) {
        const photo = photos[(first + i) % photos.length] as (typeof photos)[number]
        form.append('images', new Blob([photo.body], { type: photo.type }), `${i}`)
      }
      const multipart = new Response(form)
      const type = multipart.headers.get('content-type') as string
      return { path, type, body: Buffer.from(await multipart.arrayBuffer()), images: batch }
    }),
  )
}

/** The tokens of the photos, which the server is asked for first, as calls that decode them. */
async function decodeCalls(): Promise<Call[]> {
  const calls: Call[] = []
  for (const encode of await encodeCalls()) {
    const { status, body } = await send(encode)
    if (status !== 200) throw new Error(`encoding a photo to have tokens: ${status} ${body.toString()}`)
    const { tokens } = JSON.parse(body.toString()) as { tokens: number[][] }
    const json = JSON.stringify({ tokens: batch === 1 ? tokens[0] : tokens })
    calls.push({ path: '/decode', type: 'application/json', body: Buffer.from(json), images: batch })
  }
  return calls
}

function number(name: 'clients' | 'seconds' | 'images' | 'batch' | 'length' | 'warm-up'): number {
  const value = Number(options[name])
  if (Number.isNaN(value) || value < 0) throw new Error(`--${name} ${options[name]}: it must be a number`)
  return value
}
