// An engine process that reports ten seconds per item, and needs two for its first batch.
import type { EngineReply } from '../../src/inference/engine/protocol.ts'

const send = process.send?.bind(process)
process.send = (reply: EngineReply, ...rest: unknown[]) => {
  const said = reply.kind === 'loaded' ? { ...reply, itemMs: { encode: 10_000, decode: 10 } } : reply
  const delay = reply.kind === 'encoded' ? 2000 : 0
  setTimeout(() => send?.(said, ...(rest as [])), delay)
  return true
}

await import('../../src/inference/engine/child.ts')
