import { createConnection } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Call, decodeCall, encodeCalls, send } from '../tools/calls.ts'
import { fixtures, readImages } from '../tools/images.ts'
import { Random } from '../tools/random.ts'
import { Service } from '../tools/service.ts'
import { secondsUntil, until } from '../tools/wait.ts'
import type { Finding, Scope } from './promise.ts'

const QUEUE = 1024
const BYTES = 8 * 2 ** 20
/** Clients at once. */
const WAVE = 100
/** Warm-up until the process has reached its normal size: V8's young generation, and the allocator's reserve. */
const WARM_UP_WAVES = 10
const HEAL_SECONDS = 10

/** Clients that send a request, in part or whole, and disappear: nothing of them remains. */
export async function* clients({ long, seed }: Scope): AsyncGenerator<Finding> {
  const service = await Service.start({
    flags: ['--queue-limit', `${QUEUE}`, ...['--body-limit', '--inflight-limit'].flatMap((flag) => [flag, `${BYTES}`])],
  })
  try {
    const random = new Random(seed)
    const photos = await readImages(fixtures)
    const calls = [...(await encodeCalls(photos, 1)), ...(await encodeCalls(photos, 8))]
    const waves = long ? 50 : 4
    for (let i = 0; i < WARM_UP_WAVES; i++) await wave(service, calls, random)
    await until(async () => (await service.metric('nativetok_queue_depth')) === 0, HEAL_SECONDS)
    await sleep(1000)
    const [memory, descriptors] = [await service.memoryMiB(), await service.descriptors()]
    for (let i = 0; i < waves; i++) await wave(service, calls, random)
    const empty = await secondsUntil(async () => (await service.metric('nativetok_queue_depth')) === 0, HEAL_SECONDS)
    const after = `after ${waves * WAVE} clients that disappeared`
    yield {
      promise: `${after}, none of their images waits for an engine`,
      figure: `queue empty after ${empty.toFixed(1)} s`,
      kept: empty <= HEAL_SECONDS,
    }

    await sleep(2000)
    const [memoryNow, descriptorsNow] = [await service.memoryMiB(), await service.descriptors()]
    yield {
      promise: `${after}, no descriptor remains open`,
      figure: `${descriptors} before, ${descriptorsNow} after`,
      kept: descriptorsNow <= descriptors + 2,
    }
    yield {
      promise: `${after}, memory is as before`,
      figure: `${memory.toFixed(0)} MiB after ${WARM_UP_WAVES * WAVE} before them, ${memoryNow.toFixed(0)} MiB after`,
      kept: memoryNow <= 1.1 * memory,
    }

    // There is room for a request of the whole queue only if nothing at all is reserved.
    const most = decodeCall(Array.from({ length: QUEUE }, (_, i) => [i]))
    const free = await secondsUntil(
      async () => (await send(service.url, { ...most, path: '/decode?format=webp' })).status === 200,
      HEAL_SECONDS,
    )
    yield {
      promise: `${after}, the whole queue is free again`,
      figure: `${QUEUE} sequences with a queue limit of ${QUEUE} were answered after ${free.toFixed(1)} s`,
      kept: Number.isFinite(free),
    }
    const garbage = { path: '/encode', type: 'image/png', body: Buffer.alloc(BYTES), images: 1 }
    const bytes = await send(service.url, garbage)
    yield {
      promise: `${after}, all bytes are free again`,
      figure: `a body of ${BYTES} bytes with a limit of ${BYTES} is read and refused because it is not an image: ${bytes.status}`,
      kept: bytes.status === 422,
    }
  } finally {
    await service.stop()
  }
}

async function wave(service: Service, calls: Call[], random: Random): Promise<void> {
  await Promise.all(Array.from({ length: WAVE }, () => vanish(service, calls, random)))
}

/** Connects, sends none, some or all of a request, waits up to half a second and closes, sometimes with a reset. */
async function vanish(service: Service, calls: Call[], random: Random): Promise<void> {
  const { hostname, port } = new URL(service.url)
  const call = random.pick(calls)
  const head = `POST ${call.path} HTTP/1.1\r\nHost: x\r\nContent-Type: ${call.type}\r\nContent-Length: ${call.body.length}\r\n\r\n`
  const whole = Buffer.concat([Buffer.from(head), call.body])
  const part = random.oneIn(2) ? whole : whole.subarray(0, random.below(whole.length))
  const [stay, reset] = [random.below(500), random.oneIn(2)]
  const socket = createConnection(Number(port), hostname)
  socket.on('error', () => {})
  socket.write(part)
  await sleep(stay)
  if (reset) socket.resetAndDestroy()
  else socket.destroy()
}
