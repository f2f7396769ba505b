import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tokenizeTargets } from '../../bench/tokenize-targets.ts'

const row = (round: number, load: 'crops' | 'photos', loop: number, command: number, service: number) => ({
  ...{ round, load, loop, command, service },
})

test('the command is compared with the loop and the service of the same round', () => {
  const rows = [row(1, 'crops', 100, 97, 80), row(2, 'crops', 50, 48, 45), row(1, 'photos', 100, 94, 70)]
  const [loop, service, photoLoop, photoService] = tokenizeTargets(rows, [])
  assert.deepEqual([loop?.measured?.min, loop?.measured?.max, loop?.met], [0.96, 0.97, true])
  assert.equal(service?.met, false)
  assert.deepEqual([photoLoop?.met, photoService?.met], [false, true])
})

test('memory may not grow in the second half of a run', () => {
  const memory = (sizes: number[]) => sizes.map((memoryMiB, i) => ({ images: (i + 1) * 1000, memoryMiB }))
  assert.equal(tokenizeTargets([], memory([300, 400, 390, 410])).at(-1)?.met, true)
  assert.equal(tokenizeTargets([], memory([300, 400, 420, 440])).at(-1)?.met, false)
  assert.equal(tokenizeTargets([], []).at(-1)?.met, undefined)
})
