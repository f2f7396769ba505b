import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mutate } from '../../reliability/mutate.ts'
import { Random } from '../../tools/random.ts'
import { fixture } from '../helpers/service.ts'

const files = ['jpg', 'png', 'webp', 'avif', 'tiff'].map((format) => fixture(`formats/cat.${format}`))

const damaged = (seed: number, count: number) =>
  Array.from({ length: count }, (_, n) => {
    const random = new Random(seed, n)
    return mutate(random.pick(files), random, files)
  })

test('the same seed damages files in the same way, another seed differently', () => {
  const first = damaged(7, 50)
  assert.deepEqual(damaged(7, 50), first)
  const other = damaged(8, 50)
  assert.ok(first.filter((file, i) => file.equals(other[i] as Buffer)).length < 5)
})

test('nearly every file is damaged, and the input is unchanged', () => {
  const before = files.map((file) => Buffer.from(file))
  const whole = damaged(9, 200).filter((file) => files.some((original) => original.equals(file)))
  assert.ok(whole.length < 20, `${whole.length} of 200 are unchanged`)
  assert.deepEqual(files, before)
})

test('the shortest inputs are damaged too', () => {
  for (let n = 0; n < 500; n++) {
    const random = new Random(1, n)
    assert.ok(Buffer.isBuffer(mutate(Buffer.alloc(n % 5), random, [Buffer.alloc(0), ...files])))
  }
})
