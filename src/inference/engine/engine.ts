import { type ChildProcess, fork } from 'node:child_process'
import { createInterface } from 'node:readline'
import { stripVTControlCharacters } from 'node:util'
import { BundleError, EngineKilledError } from '../errors.ts'
import type {
  DecodeBatch,
  DecodeResult,
  EncodeBatch,
  EncodeResult,
  EngineConfig,
  EngineReply,
  EngineRequest,
  ItemTimes,
} from './protocol.ts'

/** Time for an engine to start, in milliseconds, not counting the time to read its files from a slow disk. */
const START_DEADLINE_MS = 120_000
const SLOW_DISK_BYTES_PER_MS = 20_000

/** An engine gets at least this many times the time of one item. */
const STALLED_AFTER = 3

/** Milliseconds that a slow disk needs to read the graphs and their weights. */
export function readMs({ graphs }: Pick<EngineConfig, 'graphs'>): number {
  const bytes = graphs.flatMap((graph) => [graph, ...graph.weights]).reduce((sum, file) => sum + file.bytes, 0)
  return Math.round(bytes / SLOW_DISK_BYTES_PER_MS)
}

/**
 * Why an engine ended. `stalled`: it did not answer in time and was killed. `failed`: it answered a batch with an error
 * and was killed. `unreachable`: its process could not be started or sent to. `ended`: the process ended for any other
 * reason, such as a crash.
 */
export interface EngineEnd {
  kind: 'stalled' | 'failed' | 'unreachable' | 'ended'
  /** The reason in a sentence, for people. */
  reason: string
}

/**
 * The environment of an engine: without the API key, and with one arena of jemalloc, where that is loaded. Only one thread
 * allocates much, but each of V8's would have an arena of its own.
 */
function engineEnvironment({ MALLOC_CONF, ...env } = process.env): NodeJS.ProcessEnv {
  return { ...env, NATIVETOK_API_KEY: undefined, MALLOC_CONF: MALLOC_CONF ? `${MALLOC_CONF},narenas:1` : 'narenas:1' }
}

/** Runs one batch at a time. A batch that fails rejects, and the engine then ends. */
export interface Engine {
  encode(batch: EncodeBatch): Promise<EncodeResult>
  decode(batch: DecodeBatch): Promise<DecodeResult>
  /** Whether the engine has ended; `ended` has resolved or is about to. */
  readonly over: boolean
  /** How long one item takes, as measured when the engine was warmed up. */
  readonly itemMs: ItemTimes
  /** Batches answered so far. */
  readonly answered: number
  /** Resolves with the reason when the engine has ended. Never rejects. */
  readonly ended: Promise<EngineEnd>
  /** Ends the engine; resolves when it is gone. */
  close(): Promise<void>
}

export interface EngineOptions {
  config: EngineConfig
  /**
   * Milliseconds within which a batch must be answered; after that the process is killed. A model for which one item takes
   * more than a third of it gets more time.
   */
  timeoutMs: number
  /** The script of the process. */
  child: URL
  /** Receives every line that the process writes to standard error, such as messages of ONNX Runtime. */
  onStderr(line: string): void
}

/**
 * An engine in its own process, so that a crash or a hang takes nothing else down. It is always ended by SIGKILL: the
 * only signal that also ends a process that is stopped or busy in native code. It holds nothing worth saving.
 */
export class ProcessEngine implements Engine {
  readonly ended: Promise<EngineEnd>
  readonly #process: ChildProcess
  #timeoutMs: number
  #pending: { resolve(reply: EngineReply): void; reject(error: Error): void } | undefined
  /** Why this engine ended; set when it is killed, before its process is gone. */
  #end: EngineEnd | undefined
  #answered = 0
  #itemMs: ItemTimes = { encode: 0, decode: 0 }

  /**
   * Forks the process, then loads and warms up the model.
   * @throws BundleError when a graph does not match the manifest; Error when the process cannot load the model.
   */
  static async start(options: EngineOptions): Promise<ProcessEngine> {
    const engine = new ProcessEngine(options)
    try {
      const deadlineMs = START_DEADLINE_MS + readMs(options.config)
      const reply = await engine.#call({ kind: 'load', config: options.config }, deadlineMs)
      if (reply.kind === 'loaded') engine.#itemMs = reply.itemMs
      // Otherwise an engine on a slow machine would be killed during every image.
      const slowest = Math.max(engine.#itemMs.encode, engine.#itemMs.decode)
      engine.#timeoutMs = Math.max(engine.#timeoutMs, Math.ceil(slowest * STALLED_AFTER))
      return engine
    } catch (error) {
      await engine.close()
      throw error
    }
  }

  private constructor({ child, timeoutMs, onStderr }: EngineOptions) {
    this.#timeoutMs = timeoutMs
    this.#process = fork(child, {
      serialization: 'advanced',
      // Without the parent's flags, since a debugger port or a test flag belongs to one process.
      execArgv: ['--expose-gc'],
      env: engineEnvironment(),
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    if (this.#process.stderr) {
      createInterface(this.#process.stderr).on('line', (line) => {
        const text = stripVTControlCharacters(line).trim()
        if (text) onStderr(text)
      })
    }
    this.#process.on('message', (reply: EngineReply) => this.#pending?.resolve(reply))
    this.ended = new Promise((resolve) => {
      const end = (kind: EngineEnd['kind'], reason: string, error = new Error(reason)) => {
        const expected = this.#end
        this.#end ??= { kind, reason }
        this.#pending?.reject(expected ? new Error(expected.reason) : error)
        resolve(this.#end)
      }
      // Not `once`: a process that could not be started cannot be sent to or killed either, and each reports an error.
      this.#process.on('error', ({ message }) => {
        end('unreachable', `the engine could not be started or reached: ${message}`)
      })
      this.#process.once('exit', (code, signal) => {
        const reason = `the engine ended with ${signal ?? `exit code ${code}`}`
        end('ended', reason, signal === 'SIGKILL' ? new EngineKilledError(reason) : undefined)
      })
      // A process whose channel is closed cannot answer, even if it still runs.
      this.#process.once('disconnect', () => this.#process.kill('SIGKILL'))
    })
  }

  get pid(): number | undefined {
    return this.#process.pid
  }

  get over(): boolean {
    return this.#end !== undefined
  }

  get itemMs(): ItemTimes {
    return this.#itemMs
  }

  get answered(): number {
    return this.#answered
  }

  async encode(batch: EncodeBatch): Promise<EncodeResult> {
    const reply = await this.#call({ kind: 'encode', ...batch }, this.#timeoutMs)
    if (reply.kind !== 'encoded') throw new Error(`the engine answered an encode with ${reply.kind}`)
    return reply
  }

  async decode(batch: DecodeBatch): Promise<DecodeResult> {
    const reply = await this.#call({ kind: 'decode', ...batch }, this.#timeoutMs)
    if (reply.kind !== 'decoded') throw new Error(`the engine answered a decode with ${reply.kind}`)
    return reply
  }

  async close(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.ended
  }

  #kill(kind: EngineEnd['kind'], reason: string): void {
    this.#end ??= { kind, reason }
    this.#process.kill('SIGKILL')
  }

  async #call(request: EngineRequest, deadlineMs: number): Promise<EngineReply> {
    if (this.#end) throw new Error(this.#end.reason)
    if (this.#pending) throw new Error('the engine is busy')
    const { promise, resolve, reject } = Promise.withResolvers<EngineReply>()
    this.#pending = { resolve, reject }
    const timer = setTimeout(() => {
      this.#kill('stalled', `the engine did not answer within ${deadlineMs} ms and was killed`)
    }, deadlineMs)
    try {
      // If no file descriptors are left there is no channel, and the process reports why.
      this.#process.send?.(request, (error) => {
        if (error) this.#process.kill('SIGKILL')
      })
      const reply = await promise
      if (reply.kind === 'failed') {
        // The input was checked, so the engine has run out of memory or lost its device: every later batch may fail too.
        if (request.kind !== 'load') this.#kill('failed', 'the engine failed on a batch and was killed')
        throw reply.bundle ? new BundleError(reply.message) : new Error(reply.message)
      }
      if (request.kind !== 'load') this.#answered++
      return reply
    } finally {
      clearTimeout(timer)
      this.#pending = undefined
    }
  }
}
