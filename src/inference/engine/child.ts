// The engine process, which only runs ONNX Runtime. It is a separate process because ONNX Runtime's `run()` blocks its thread.
import { flushCompileCache } from 'node:module'
import { constants, setPriority } from 'node:os'
import { env } from 'onnxruntime-node'
import { BundleError } from '../errors.ts'
import { LoadedModel } from './loaded-model.ts'
import type { EngineReply, EngineRequest } from './protocol.ts'

/** Answers requests, one at a time, until the parent's channel closes. */
function serve(): void {
  let model: LoadedModel | undefined

  async function answer(request: EngineRequest): Promise<EngineReply> {
    if (request.kind === 'load') {
      model = await LoadedModel.load(request.config)
      // Node would do so at its exit, but engines are killed.
      flushCompileCache()
      return { kind: 'loaded', itemMs: model.itemMs }
    }
    if (!model) throw new Error('no model is loaded')
    if (request.kind === 'encode') return { kind: 'encoded', ...(await model.encode(request)) }
    return { kind: 'decoded', ...(await model.decode(request)) }
  }

  process.on('message', async (request: EngineRequest) => {
    const reply = await answer(request).catch(
      (error: unknown): EngineReply => ({
        kind: 'failed',
        message: error instanceof Error ? error.message : String(error),
        bundle: error instanceof BundleError,
      }),
    )
    process.send?.(reply)
    // V8 counts the arrays of past batches only roughly, and would keep 40 MB of them.
    globalThis.gc?.({ type: 'minor' })
  })
  process.on('disconnect', () => process.exit(0))
  // Ctrl-C reaches the whole process group, but accepted requests must finish: only the parent ends this process.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => {})
}

// The server has priority when both want a core: it answers health checks and decodes the images of the next batch.
setPriority(constants.priority.PRIORITY_BELOW_NORMAL)
env.logLevel = 'error'
serve()
