import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import type { Logger } from 'pino'
import { type App, buildApp } from '../../src/app.ts'
import { type Config, readConfig } from '../../src/config.ts'
import { Inference } from '../../src/inference/inference.ts'
import { createLog } from '../../src/observability/log.ts'
import { Metrics } from '../../src/observability/metrics.ts'
import { BUNDLE } from './bundle.ts'

const fixtures = new URL('../fixtures/', import.meta.url)

/** A fixture's bytes, by its path under `test/fixtures`. */
export function fixture(path: string): Buffer<ArrayBuffer> {
  return readFileSync(new URL(path, fixtures))
}

/** Small real photos. */
export const photos = ['airplane', 'car', 'cougar', 'daisy-1', 'ferry', 'flamingo', 'kangaroo', 'leopard'].map((name) =>
  fixture(`photos/${name}.webp`),
)

/** Inference on the real bundle, with its log lines; shared by the tests of a file. */
export interface Backend {
  inference: Inference
  metrics: Metrics
  log: Logger
  /** Everything logged so far. */
  lines: Record<string, unknown>[]
}

export async function startBackend(
  options: { model?: string; timeoutMs?: number; queueLimit?: number } = {},
): Promise<Backend> {
  const lines: Record<string, unknown>[] = []
  const log = createLog({ level: 'info', destination: { write: (line: string) => lines.push(JSON.parse(line)) } })
  const config = configOf()
  const metrics = new Metrics()
  const inference = await Inference.start({
    ...{ model: config.model, provider: 'cpu', devices: [0], engines: 1, threads: 2, tf32: false },
    ...{ maxBatch: config.maxBatch, queueLimit: config.queueLimit, timeoutMs: 30_000 },
    ...{ log, metrics: metrics.inference, ...options },
  })
  return { inference, metrics, log, lines }
}

export interface Service extends App {
  /** The URL it listens on. */
  base: string
}

/** Starts the service on a free port, with the given settings and defaults for the rest. */
export async function listen(backend: Backend, settings: Partial<Config> = {}): Promise<Service> {
  const app = await buildApp({ ...backend, config: { ...configOf(), ...settings } })
  await app.http.listen({ host: '127.0.0.1', port: 0 })
  return { ...app, base: `http://127.0.0.1:${(app.http.server.address() as AddressInfo).port}` }
}

/** The default configuration with the tests' bundle. */
export function configOf(): Config {
  return readConfig(['--model', BUNDLE], {})
}

/** A multipart body of images. */
export function formOf(images: Buffer<ArrayBuffer>[]): FormData {
  const form = new FormData()
  for (const [i, image] of images.entries()) form.append('images', new Blob([image]), `${i}`)
  return form
}

/** The process ids of engines, in the order in which they started. */
export function enginePids({ lines }: Backend): number[] {
  return lines.filter((line) => line.msg === 'engine ready').map((line) => Number(line.enginePid))
}

/** Waits until a condition holds. The test runner's timeout is the limit. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20))
}
