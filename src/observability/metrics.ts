import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import pkg from '../../package.json' with { type: 'json' }
import type { ProblemKind } from '../http/problem.ts'
import type { Inference, InferenceMetrics, Timings } from '../inference/inference.ts'

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

/** The sources of the gauges' values. */
interface Watched {
  inference: Inference
  config: { queueLimit: number; inflightLimit: number }
  inflight: { bytes: number }
  draining: boolean
}

/** The metrics for Prometheus. Time is measured in the queue, in image processing, in the graphs, and in total. */
export class Metrics {
  readonly registry = new Registry()
  /** Receives what inference reports. */
  readonly inference: InferenceMetrics

  private readonly requests = this.counter('requests_total', 'Requests answered', ['route', 'method', 'status'])
  private readonly errors = this.counter('errors_total', 'Requests failed', ['kind'])
  private readonly images = this.counter('images_total', 'Images encoded and sequences decoded', ['route'])
  private readonly total = this.histogram('request_duration_seconds', 'Time from request to answer', ['route'])
  private readonly queue = this.histogram('queue_duration_seconds', 'Time of an item in the queue', ['route'])
  private readonly step = this.histogram(
    'step_duration_seconds',
    'Time to turn an image into pixels, or pixels into an image',
    ['step'],
  )

  #watched: Watched | undefined

  constructor() {
    // Event-loop delay, memory and processor time of the HTTP process.
    collectDefaultMetrics({ register: this.registry, prefix: 'nativetok_' })
    const batch = this.histogram('batch_size', 'Items per batch', ['kind'], [1, 2, 4, 8, 16, 32, 64, 128])
    const graph = this.histogram('graph_duration_seconds', 'Time of a batch in a graph', ['graph'])
    const restarts = this.counter('engine_restarts_total', 'Engines replaced', ['reason'])
    const depth = new Gauge({
      name: 'nativetok_queue_depth',
      help: 'Items waiting for an engine',
      labelNames: ['kind'],
      registers: [this.registry],
    })
    // From the start, because no series is not the same as an empty queue to what scales by it.
    for (const kind of ['encode', 'decode'] as const) depth.set({ kind }, 0)
    this.gauge('ready', '1 when /health/ready reports ready', (s) => Number(s.inference.ready && !s.draining))
    this.gauge('draining', '1 while the server shuts down', (s) => Number(s.draining))
    this.gauge('engines', 'Configured engines', (s) => s.inference.info.engines)
    this.gauge('engines_up', 'Engines that are ready', (s) => s.inference.enginesUp)
    this.gauge('images_in_flight', 'Images and sequences admitted', (s) => s.inference.imagesInFlight)
    this.gauge('queue_limit', 'Maximum images and sequences admitted at once', (s) => s.config.queueLimit)
    this.gauge('body_bytes', 'Bytes of all bodies in memory', (s) => s.inflight.bytes)
    this.gauge('body_bytes_limit', 'Maximum bytes of all bodies in memory', (s) => s.config.inflightLimit)
    this.info()
    this.inference = {
      batch: (kind, size) => batch.observe({ kind }, size),
      graph: (name, duration) => graph.observe({ graph: name }, duration),
      queueDepth: (kind, n) => depth.set({ kind }, n),
      engineRestart: ({ kind }) => restarts.inc({ reason: kind }),
    }
  }

  /** Sets what the gauges show. */
  watch(watched: Watched): void {
    this.#watched = watched
  }

  /** @param route as in the contract; a path outside it counts as `none` */
  request(route: string, method: string, status: number, durationSeconds: number): void {
    this.requests.inc({ route, method, status })
    this.total.observe({ route }, durationSeconds)
  }

  error(kind: ProblemKind | 'client-gone'): void {
    this.errors.inc({ kind })
  }

  /** Counts one finished item. */
  item(route: 'encode' | 'decode', timings: Timings): void {
    this.images.inc({ route })
    this.queue.observe({ route }, timings.queue / 1000)
  }

  /** Records how long one image took to become pixels, or pixels to become an image. */
  image(step: 'preprocess' | 'postprocess', milliseconds: number): void {
    this.step.observe({ step }, milliseconds / 1000)
  }

  private gauge(name: string, help: string, read: (watched: Watched) => number): void {
    const value = () => (this.#watched === undefined ? 0 : read(this.#watched))
    const collect = function (this: Gauge) {
      this.set(value())
    }
    new Gauge({ name: `nativetok_${name}`, help, registers: [this.registry], collect })
  }

  /** The running versions, as labels of a gauge that is always 1. */
  private info(): void {
    const labels = (): Record<string, string> | undefined => {
      const info = this.#watched?.inference.info
      if (!info) return undefined
      const { name, modelDigest: model, bundleDigest: bundle, provider } = info
      return { version: pkg.version, name, model, bundle, provider }
    }
    const collect = function (this: Gauge) {
      const found = labels()
      if (found !== undefined) this.set(found, 1)
    }
    const labelNames = ['version', 'name', 'model', 'bundle', 'provider']
    new Gauge({ name: 'nativetok_build_info', help: 'What runs', labelNames, registers: [this.registry], collect })
  }

  private counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `nativetok_${name}`, help, labelNames, registers: [this.registry] })
  }

  private histogram(name: string, help: string, labelNames: string[], buckets = seconds): Histogram {
    return new Histogram({ name: `nativetok_${name}`, help, labelNames, buckets, registers: [this.registry] })
  }
}
