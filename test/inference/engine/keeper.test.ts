import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Engine, EngineEnd } from '../../../src/inference/engine/engine.ts'
import { EngineKeeper } from '../../../src/inference/engine/keeper.ts'

/** An engine that only ends. */
class MortalEngine implements Engine {
  over = false
  answered = 0
  readonly itemMs = { encode: 1, decode: 1 }
  readonly #end = Promise.withResolvers<EngineEnd>()
  readonly ended = this.#end.promise

  encode(): Promise<never> {
    return Promise.reject(new Error('not asked for'))
  }

  decode(): Promise<never> {
    return Promise.reject(new Error('not asked for'))
  }

  die(reason: string): void {
    this.over = true
    this.#end.resolve({ kind: 'ended', reason })
  }

  async close(): Promise<void> {
    this.die('closed')
  }
}

test('it replaces an engine that ends, tries again when that fails, and stops when closed', async () => {
  const events: string[] = []
  const revived = Promise.withResolvers<MortalEngine>()
  let starts = 0
  const first = new MortalEngine()
  const keeper = new EngineKeeper(
    first,
    async () => {
      if (++starts < 3) throw new Error(`no memory ${starts}`)
      return new MortalEngine()
    },
    {
      up: (engine) => {
        events.push('up')
        if (engine !== first) revived.resolve(engine as MortalEngine)
      },
      down: (_, { reason }) => events.push(`down: ${reason}`),
      failed: (error) => events.push(`failed: ${error.message}`),
    },
  )
  first.die('crashed')
  const second = await revived.promise
  assert.deepEqual(events, ['up', 'down: crashed', 'failed: no memory 1', 'failed: no memory 2', 'up'])
  await keeper.close()
  assert.equal(second.over, true)
  assert.equal(starts, 3)
  assert.equal(events.length, 5)
})

test('closing while a replacement starts ends the replacement too', async () => {
  const starting = Promise.withResolvers<void>()
  const start = Promise.withResolvers<Engine>()
  const first = new MortalEngine()
  first.answered = 1
  const keeper = new EngineKeeper(
    first,
    () => {
      starting.resolve()
      return start.promise
    },
    { up: () => {}, down: () => {}, failed: () => {} },
  )
  first.die('crashed')
  await starting.promise
  const closed = keeper.close()
  const second = new MortalEngine()
  start.resolve(second)
  await closed
  assert.equal(second.over, true)
})
