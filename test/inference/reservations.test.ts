import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { QueueFullError } from '../../src/inference/errors.ts'
import { type Reservation, Reservations } from '../../src/inference/reservations.ts'

/** Time passes only when a test advances it. */
function clock(t: TestContext): (seconds: number) => void {
  let now = 0
  t.mock.method(performance, 'now', () => now)
  return (seconds) => {
    now += seconds * 1000
  }
}

/** Works on `images` of a request at this many per second. */
function work(reservation: Reservation, images: number, rate: number, pass: (seconds: number) => void): void {
  for (let i = 0; i < images; i++) {
    pass(1 / rate)
    reservation.done()
  }
}

test('no more images are admitted than the limit', () => {
  const reservations = new Reservations(10, 4)
  const first = reservations.reserve(6)
  first.grow(2)
  assert.throws(() => reservations.reserve(3), QueueFullError)
  assert.throws(() => first.grow(3), QueueFullError)
  const second = reservations.reserve(2)
  assert.throws(() => reservations.reserve(1), QueueFullError)
  first.release()
  first.release()
  assert.throws(() => reservations.reserve(9), QueueFullError)
  reservations.reserve(8)
  second.release()
})

test('before any measurement, images are admitted up to the limit, whatever the deadline', () => {
  const reservations = new Reservations(10_000, 4)
  reservations.reserve(9000, 1).begin()
  reservations.reserve(1000, 1)
})

test('images that could not be answered in time at the recent pace are refused, with the time to retry', (t) => {
  const pass = clock(t)
  const reservations = new Reservations(10_000, 4)
  const first = reservations.reserve(1000, 30_000)
  first.begin()
  work(first, 100, 10, pass)
  // 900 images at 10 per second take 90 s; the images ahead of a request may take a third of 30 s.
  assert.throws(() => reservations.reserve(1, 30_000), {
    name: 'QueueFullError',
    message: /900 .* 90 s/,
    retryAfter: 81,
  })
  // A request that is ahead of others may keep growing, and a request without a deadline is admitted.
  first.grow(10)
  reservations.reserve(1).release()
  work(first, 810, 10, pass)
  assert.throws(() => reservations.reserve(1, 30_000), { retryAfter: 1 })
  work(first, 1, 10, pass)
  const second = reservations.reserve(2, 30_000)
  assert.throws(() => second.grow(2), QueueFullError)
  first.release()
  reservations.reserve(1000, 30_000)
})

test('images that do not keep the engines busy do not count for the pace', (t) => {
  const pass = clock(t)
  const reservations = new Reservations(10_000, 4)
  for (let i = 0; i < 100; i++) {
    const slow = reservations.reserve(3, 30_000)
    slow.begin()
    work(slow, 3, 0.1, pass)
    slow.release()
  }
  reservations.reserve(5000, 30_000).begin()
  reservations.reserve(1000, 30_000)
})

test('a client that uploads slowly does not count for the pace', (t) => {
  const pass = clock(t)
  const reservations = new Reservations(10_000, 4)
  const slow = reservations.reserve(1000, 30_000)
  for (let i = 0; i < 10; i++) {
    const quick = reservations.reserve(1, 30_000)
    quick.begin()
    work(quick, 1, 1, pass)
    quick.release()
  }
  slow.begin()
  reservations.reserve(1000, 30_000)
})

test('a pace that was once slow does not keep out the requests that would measure it again', (t) => {
  const pass = clock(t)
  const reservations = new Reservations(10_000, 4)
  const slow = reservations.reserve(10, 30_000)
  slow.begin()
  work(slow, 6, 0.01, pass)
  slow.release()
  const quick = [reservations.reserve(3, 30_000), reservations.reserve(1000, 30_000)]
  for (const reservation of quick) reservation.begin()
  for (let i = 0; i < 900; i++) work(quick[1] as Reservation, 1, 100, pass)
  reservations.reserve(1000, 30_000)
})

test('it is empty when everything is released', async () => {
  const reservations = new Reservations(10, 4)
  await reservations.emptied()
  const [first, second] = [reservations.reserve(1), reservations.reserve(1)]
  let empty = false
  const emptied = reservations.emptied().then(() => {
    empty = true
  })
  first?.release()
  await new Promise(setImmediate)
  assert.equal(empty, false)
  second?.release()
  await emptied
})
