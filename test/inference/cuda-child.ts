// An engine process in which the CPU stands in for CUDA. It logs its calls to ONNX Runtime, one line of JSON per call, to
// the file in CUDA_CHILD_LOG.
import { appendFileSync } from 'node:fs'
import { InferenceSession } from 'onnxruntime-node'

/** A created session: its providers, and the environment's TensorFloat-32 setting at that time. */
export interface Created {
  pid: number
  providers: InferenceSession.SessionOptions['executionProviders']
  tf32: string | undefined
}

/** A graph that ran, and the number of rows. */
export interface Ran {
  pid: number
  rows: number | undefined
}

const say = (what: object) => {
  appendFileSync(process.env.CUDA_CHILD_LOG ?? '', `${JSON.stringify({ pid: process.pid, ...what })}\n`)
}

const create = InferenceSession.create.bind(InferenceSession)
Object.assign(InferenceSession, {
  create: async (model: Uint8Array, options: InferenceSession.SessionOptions) => {
    say({ providers: options.executionProviders, tf32: process.env.NVIDIA_TF32_OVERRIDE })
    const session = await create(model, { ...options, executionProviders: ['cpu'] })
    const run = session.run.bind(session)
    session.run = (feeds: InferenceSession.FeedsType) => {
      say({ rows: Object.values(feeds)[0]?.dims[0] })
      return run(feeds)
    }
    return session
  },
})

await import('../../src/inference/engine/child.ts')
