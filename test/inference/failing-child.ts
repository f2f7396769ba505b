// An engine process that reports a failure, like ONNX Runtime without memory, on an image that begins with the poison pixels.
import type { EngineReply, EngineRequest } from '../../src/inference/engine/protocol.ts'
import { POISON } from './poison.ts'

process.on('message', (request: EngineRequest) => {
  if (request.kind !== 'encode' || !POISON.every((value, index) => request.pixels[index] === value)) return
  process.send?.({ kind: 'failed', message: 'no memory', bundle: false } satisfies EngineReply)
})

await import('../../src/inference/engine/child.ts')
