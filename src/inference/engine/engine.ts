import { type ChildProcess, fork } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { stripVTControlCharacters } from 'node:util'
import { BundleError } from '../errors.ts'
import type {
  DecodeBatch,
  DecodeResult,
  EncodeBatch,
  EncodeResult,
  EngineConfig,
  EngineReply,
  EngineRequest,
} from './protocol.ts'

const LOAD_DEADLINE_MS = 120_000
const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 10_000

/** Runs one batch at a time. A batch that fails rejects and the engine is over, which `ended` then says. */
export interface Engine {
  encode(batch: EncodeBatch): Promise<EncodeResult>
  decode(batch: DecodeBatch): Promise<DecodeResult>
  /** Whether the engine is over; `ended` is about to say so. */
  readonly over: boolean
  /** Batches answered so far. */
  readonly answered: number
  /** Resolves, once the engine is over for whatever reason, with that reason. Never rejects. */
  readonly ended: Promise<string>
  /** Ends the engine; resolves when it is gone. */
  close(): Promise<void>
}

export interface EngineOptions {
  config: EngineConfig
  /** Milliseconds within which a batch must be answered; past them the process is killed. */
  timeoutMs: number
  /** The script that the process runs. */
  child: URL
  /** Gets every line that the process writes to its standard error: ONNX Runtime's own words. */
  onStderr(line: string): void
}

/**
 * An engine in a process of its own: what crashes or hangs there takes nothing else down. It is always ended by SIGKILL,
 * the one signal that also ends a process that is stopped or deep in native code; it holds nothing worth saving.
 */
export class ProcessEngine implements Engine {
  readonly ended: Promise<string>
  readonly #process: ChildProcess
  readonly #timeoutMs: number
  #pending: { resolve(reply: EngineReply): void; reject(error: Error): void } | undefined
  #endReason: string | undefined
  #killedFor: string | undefined
  #answered = 0

  /**
   * Forks the process, loads and warms up the model.
   * @throws BundleError when a graph is not what the manifest promises; Error when the process cannot load the model.
   */
  static async start(options: EngineOptions): Promise<ProcessEngine> {
    const engine = new ProcessEngine(options)
    try {
      await engine.#call({ kind: 'load', config: options.config }, LOAD_DEADLINE_MS)
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
      // Not the parent's: a debugger port or a test flag belongs to one process, and the key is no business of this one.
      execArgv: [],
      env: { ...process.env, NATIVETOK_API_KEY: undefined },
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
      const end = (reason: string) => {
        this.#endReason = this.#killedFor ?? reason
        this.#pending?.reject(new Error(this.#endReason))
        resolve(this.#endReason)
      }
      // More than once: what could not be started cannot be sent to or killed either.
      this.#process.on('error', (error) => end(`the engine could not be started or reached: ${error.message}`))
      this.#process.once('exit', (code, signal) => end(`the engine ended with ${signal ?? `exit code ${code}`}`))
      // A process whose channel is gone can answer nothing, whether it still runs or not.
      this.#process.once('disconnect', () => this.#process.kill('SIGKILL'))
    })
  }

  get pid(): number | undefined {
    return this.#process.pid
  }

  get over(): boolean {
    return this.#endReason !== undefined || this.#killedFor !== undefined
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

  #kill(reason: string): void {
    this.#killedFor = reason
    this.#process.kill('SIGKILL')
  }

  async #call(request: EngineRequest, deadlineMs: number): Promise<EngineReply> {
    if (this.over) throw new Error(this.#killedFor ?? this.#endReason)
    if (this.#pending) throw new Error('the engine is busy')
    const { promise, resolve, reject } = Promise.withResolvers<EngineReply>()
    this.#pending = { resolve, reject }
    const timer = setTimeout(() => {
      this.#kill(`the engine did not answer within ${deadlineMs} ms and was killed`)
    }, deadlineMs)
    try {
      // Without file descriptors left there is no channel, and the process reports why.
      this.#process.send?.(request, (error) => {
        if (error) this.#process.kill('SIGKILL')
      })
      const reply = await promise
      if (reply.kind === 'failed') {
        // Its input was checked, so it has run out of memory or lost its device: it may fail on all that comes after.
        if (request.kind !== 'load') this.#kill('the engine failed on a batch and was killed')
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

export interface KeeperHooks {
  /** An engine is there, loaded and warm. */
  up(engine: Engine): void
  /** That engine is over. */
  down(engine: Engine, reason: string): void
  /** A successor did not come up; another will be tried. */
  failed(error: Error): void
}

/**
 * Keeps one engine going. An engine that answered a batch before it ended is replaced at once; the pause before the next
 * try doubles from 100 ms to 10 s for as long as engines end without having answered one.
 */
export class EngineKeeper {
  readonly #closing = new AbortController()
  readonly #start: () => Promise<Engine>
  readonly #hooks: KeeperHooks
  readonly #loop: Promise<void>
  #engine: Engine

  constructor(first: Engine, start: () => Promise<Engine>, hooks: KeeperHooks) {
    this.#engine = first
    this.#start = start
    this.#hooks = hooks
    this.#loop = this.#keep()
  }

  /** Ends the engine and replaces it no more. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#engine.close()
    await this.#loop
  }

  async #keep(): Promise<void> {
    const { signal } = this.#closing
    let failures = 0
    while (!signal.aborted) {
      this.#hooks.up(this.#engine)
      const reason = await this.#engine.ended
      if (signal.aborted) return
      this.#hooks.down(this.#engine, reason)
      failures = this.#engine.answered > 0 ? 0 : failures + 1
      for (let replaced = false; !replaced; ) {
        const pause = failures === 0 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS)
        await sleep(pause, undefined, { signal }).catch(() => {})
        if (signal.aborted) return
        try {
          this.#engine = await this.#start()
          replaced = true
        } catch (error) {
          failures++
          this.#hooks.failed(error instanceof Error ? error : new Error(String(error)))
        }
      }
    }
    await this.#engine.close()
  }
}
