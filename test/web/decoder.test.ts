import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Api, Info } from '../../web/src/api.ts'
import { Decoder } from '../../web/src/decoder.ts'
import { grey } from '../../web/src/pixels.ts'

/** A decoder with a service that takes this many milliseconds per picture. */
function decoderOf(each: number, images = 1024): Decoder {
  const decode = async (sequences: number[][]) => {
    await new Promise((resolve) => setTimeout(resolve, each * sequences.length))
    return sequences.map(() => grey(1, 1))
  }
  return new Decoder({ decode } as unknown as Api, { model: 'm', limits: { images } } as Info)
}
const rows = (count: number) => Array.from({ length: count }, () => [7])

test('batches grow on a fast service and shrink on a slow one', async () => {
  const { signal } = new AbortController()
  const fast = decoderOf(5)
  const before = fast.batch
  await fast.decode(rows(before), signal)
  assert.ok(fast.batch > before && fast.batch <= 16, `${fast.batch}`)
  const slow = decoderOf(500)
  await slow.decode(rows(2), signal)
  assert.ok(slow.batch <= 2, `${slow.batch}`)
  const slowest = decoderOf(1700)
  await slowest.decode(rows(1), signal)
  assert.equal(slowest.batch, 1)
})

test('no batch is larger than the service accepts', async () => {
  const small = decoderOf(1, 3)
  assert.equal(small.batch, 3)
  await small.decode(rows(3), new AbortController().signal)
  assert.equal(small.batch, 3)
})
