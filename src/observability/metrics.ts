import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import pkg from '../../package.json' with { type: 'json' }
import type { ProblemKind } from '../http/problem.ts'
import type { InferenceMetrics, Timings } from '../inference/inference.ts'
import type { Services } from '../services.ts'

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

/** What Prometheus reads. Time in queue, in images, in the graphs and in total are told apart. */
export class Metrics {
  readonly registry = new Registry()
  /** What the inference side reports by itself. */
  readonly inference: InferenceMetrics

  private readonly requests = this.counter('requests_total', 'Requests answered', ['route', 'method', 'status'])
  private readonly errors = this.counter('errors_total', 'Requests failed', ['kind'])
  private readonly images = this.counter('images_total', 'Images encoded and sequences decoded', ['route'])
  private readonly total = this.histogram('request_duration_seconds', 'Request to answer', ['route'])
  private readonly queue = this.histogram('queue_duration_seconds', 'An item in the queue', ['route'])
  private readonly step = this.histogram('step_duration_seconds', 'An image to pixels, or pixels to an image', ['step'])

  #services: Services | undefined

  constructor() {
    // Event-loop delay, memory and processor time of the HTTP process.
    collectDefaultMetrics({ register: this.registry, prefix: 'nativetok_' })
    const batch = this.histogram('batch_size', 'Items a batch', ['kind'], [1, 2, 4, 8, 16, 32, 64, 128])
    const graph = this.histogram('graph_duration_seconds', 'A batch in a graph', ['graph'])
    const restarts = this.counter('engine_restarts_total', 'Engines replaced', ['reason'])
    const depth = new Gauge({
      name: 'nativetok_queue_depth',
      help: 'Items waiting for an engine',
      labelNames: ['kind'],
      registers: [this.registry],
    })
    this.gauge('ready', 'Whether it says that it is ready', (s) => Number(s.inference.ready && !s.draining))
    this.gauge('draining', 'Whether it was told to end', (s) => Number(s.draining))
    this.gauge('engines', 'Engines there should be', (s) => s.inference.info.engines)
    this.gauge('engines_up', 'Engines that are warm', (s) => s.inference.enginesUp)
    this.gauge('images_in_flight', 'Images and sequences admitted', (s) => s.inference.imagesInFlight)
    this.gauge('queue_limit', 'Most images and sequences admitted at once', (s) => s.config.queueLimit)
    this.gauge('body_bytes', 'Bytes of all bodies held', (s) => s.inflight.bytes)
    this.gauge('body_bytes_limit', 'Most bytes of all bodies held at once', (s) => s.config.inflightLimit)
    this.info()
    this.inference = {
      batch: (kind, size) => batch.observe({ kind }, size),
      graph: (name, duration) => graph.observe({ graph: name }, duration),
      queueDepth: (kind, n) => depth.set({ kind }, n),
      engineRestart: ({ kind }) => restarts.inc({ reason: kind }),
    }
  }

  /** What the gauges show from now on. */
  watch(services: Services): void {
    this.#services = services
  }

  /** @param route as the contract writes it; one that is not in the contract counts as `none` */
  request(route: string, method: string, status: number, durationSeconds: number): void {
    this.requests.inc({ route, method, status })
    this.total.observe({ route }, durationSeconds)
  }

  error(kind: ProblemKind | 'client-gone'): void {
    this.errors.inc({ kind })
  }

  /** One item that is done. */
  item(route: 'encode' | 'decode', timings: Timings): void {
    this.images.inc({ route })
    this.queue.observe({ route }, timings.queue / 1000)
  }

  /** One image turned to pixels or back. */
  image(step: 'preprocess' | 'postprocess', milliseconds: number): void {
    this.step.observe({ step }, milliseconds / 1000)
  }

  private gauge(name: string, help: string, read: (services: Services) => number): void {
    const value = () => (this.#services === undefined ? 0 : read(this.#services))
    const collect = function (this: Gauge) {
      this.set(value())
    }
    new Gauge({ name: `nativetok_${name}`, help, registers: [this.registry], collect })
  }

  /** What runs, as labels of a gauge that is always 1. */
  private info(): void {
    const labels = (): Record<string, string> | undefined => {
      const info = this.#services?.inference.info
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
