import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { doubling, Frames, nearest } from '../../web/src/frames.ts'
import { grey } from '../../web/src/pixels.ts'

/** Frames 1 to 40 with a decoder that answers when the test says so. A picture is as wide as its sequence is long. */
function manual(options: { along?: number[]; batch?: number } = {}) {
  const calls: { lengths: number[]; signal: AbortSignal; answer: () => void; fail: (error: Error) => void }[] = []
  const errors: unknown[] = []
  const arrived: number[] = []
  let busy = 0
  const frames = new Frames({
    ...{ from: 1, to: 40, batch: () => options.batch ?? 8, ...(options.along && { along: options.along }) },
    sequenceOf: (k) => Array(k).fill(7),
    decode: (sequences, signal) =>
      new Promise((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason))
        const answer = () => resolve(sequences.map(({ length }) => grey(length, 1)))
        calls.push({ lengths: sequences.map(({ length }) => length), signal, answer, fail: reject })
      }),
    onFrames: (ks) => arrived.push(...ks),
    onError: (error) => errors.push(error),
    onBusy: (begins) => {
      busy += begins ? 1 : -1
    },
  })
  return { frames, calls, errors, arrived, busy: () => busy }
}

test('a wanted frame comes in one batch with its neighbours', async () => {
  const { frames, calls, busy } = manual()
  frames.want(20)
  assert.deepEqual(calls[0]?.lengths, [16, 17, 18, 19, 20, 21, 22, 23])
  assert.equal(busy(), 1)
  calls[0]?.answer()
  await turn()
  assert.equal(frames.get(20)?.width, 20)
  assert.equal(busy(), 0)
  frames.want(22)
  assert.equal(calls.length, 1, 'it has arrived already')
})

test('a batch without the frame that is wanted now is aborted, one with it is not', async () => {
  const { frames, calls, errors } = manual()
  frames.want(20)
  frames.want(21)
  assert.equal(calls[0]?.signal.aborted, false)
  frames.want(35)
  frames.want(36)
  assert.equal(calls[0]?.signal.aborted, true)
  await turn()
  assert.equal(calls.length, 2)
  assert.ok(calls[1]?.lengths.includes(36))
  calls[1]?.answer()
  await turn()
  assert.equal(frames.get(36)?.width, 36)
  assert.equal(frames.get(20), undefined)
  assert.deepEqual(errors, [])
})

test('filling begins with a few frames across the whole range and gets them all', async () => {
  const { frames, calls, arrived } = manual()
  frames.fill()
  assert.deepEqual(calls[0]?.lengths, [1, 2, 4, 8, 16, 32, 40])
  for (let i = 0; i < calls.length; i++) {
    calls[i]?.answer()
    await turn()
    if (i === 0) assert.equal(frames.ready, 2)
  }
  assert.deepEqual(
    arrived.toSorted((a, b) => a - b),
    Array.from({ length: 40 }, (_, i) => i + 1),
  )
  assert.equal(frames.ready, 40)
  assert.ok(calls.every(({ lengths }) => lengths.length <= 8))
})

test('with a slow decoder these few also come first, in smaller batches', async () => {
  const { frames, calls } = manual({ batch: 3 })
  frames.fill()
  for (let i = 0; i < 4; i++) {
    calls[i]?.answer()
    await turn()
  }
  assert.deepEqual(
    calls.slice(0, 4).map(({ lengths }) => lengths),
    [[1, 2, 4], [8, 16, 32], [40], [3, 5, 6]],
  )
})

test('filling continues after an interruption by a wanted frame', async () => {
  const { frames, calls } = manual()
  frames.fill()
  frames.want(27)
  assert.equal(calls[0]?.signal.aborted, true)
  await turn()
  assert.ok(calls[1]?.lengths.includes(27))
  for (let i = 1; i < calls.length; i++) {
    calls[i]?.answer()
    await turn()
  }
  assert.equal(frames.ready, 40)
})

test('a failure is reported once, and the next request tries again', async () => {
  const { frames, calls, errors, busy } = manual()
  frames.fill()
  calls[0]?.fail(new Error('queue full'))
  await turn()
  assert.deepEqual([errors.length, calls.length, busy()], [1, 1, 0])
  frames.want(5)
  assert.equal(calls.length, 2)
})

test('companion frames are in the first batch', () => {
  const { frames, calls } = manual({ along: [1, 40] })
  frames.want(20)
  assert.deepEqual(calls[0]?.lengths, [17, 18, 19, 20, 21, 22, 1, 40])
})

test('identical frames are reused', async () => {
  const before = manual()
  before.frames.want(4)
  before.calls[0]?.answer()
  await turn()
  const { frames } = manual()
  frames.adopt(before.frames, 3)
  assert.deepEqual([frames.ready, frames.get(4)], [3, undefined])
})

test('after stopping, nothing more is requested', async () => {
  const { frames, calls, errors } = manual()
  frames.fill()
  frames.stop()
  await turn()
  frames.want(3)
  assert.equal(calls[0]?.signal.aborted, true)
  assert.deepEqual([calls.length, errors.length], [1, 0])
})

test('the nearest numbers come first, or a few across the whole range', () => {
  assert.deepEqual(nearest([1, 2, 3, 10, 11], 9, 3), [3, 10, 11])
  assert.deepEqual(doubling(1, 1), [1])
  assert.deepEqual(doubling(0, 5), [0, 1, 3, 5])
})
