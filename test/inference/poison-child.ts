// An engine process that crashes, like native code, on an image that begins with the poison pixels.
import type { EngineRequest } from '../../src/inference/engine/protocol.ts'
import { POISON } from './poison.ts'

process.on('message', (request: EngineRequest) => {
  if (request.kind !== 'encode') return
  const imageBytes = request.pixels.length / request.lengths.length
  for (let start = 0; start < request.pixels.length; start += imageBytes) {
    if (POISON.every((value, index) => request.pixels[start + index] === value)) process.kill(process.pid, 'SIGSEGV')
  }
})

await import('../../src/inference/engine/child.ts')
