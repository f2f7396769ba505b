import { setTimeout as sleep } from 'node:timers/promises'
import sharp from 'sharp'
import { writeNpy } from '../src/formats/npy.ts'
import { type Call, encodeCalls, send } from '../tools/calls.ts'
import { fixtures, readImages } from '../tools/images.ts'
import { Service } from '../tools/service.ts'
import { percentile } from '../tools/statistics.ts'
import type { Finding, Scope } from './promise.ts'

const LARGE = 1000
const PAUSE_MS = 50

/** One client sends requests of 1,000 images, another single images: neither blocks the other. */
export async function* fairness({ long }: Scope): AsyncGenerator<Finding> {
  // Slow machines must answer the large requests too: this is about the order.
  const service = await Service.start({ flags: ['--request-timeout', '300'] })
  try {
    const photos = await readImages(fixtures)
    const singles = await encodeCalls(photos, 1)
    const pixels = await Promise.all(
      photos.map(({ body }) => sharp(body).resize(128, 128, { fit: 'cover' }).removeAlpha().raw().toBuffer()),
    )
    const images = Array.from({ length: LARGE }, (_, i) => pixels[i % pixels.length] as Buffer)
    const body = writeNpy('|u1', [LARGE, 128, 128, 3], images)
    const large: Call = { path: '/encode', type: 'application/x-npy', body, images: LARGE }

    let rounds = long ? 20 : 2
    const alone = await latencies(service, singles, () => rounds-- > 0)
    rounds = long ? 10 : 2
    const largeTimes: number[] = []
    const largeOnes = (async () => {
      for (let i = 0; i < rounds; i++) largeTimes.push(await time(service, large))
    })()
    let under = true
    void largeOnes.finally(() => {
      under = false
    })
    const beside = await latencies(service, singles, () => under)
    await largeOnes
    const whole = percentile(largeTimes, 50)
    yield {
      promise: `a single image beside requests of ${LARGE} images waits for its turn, not for all of them`,
      figure: `p50 ${ms(beside, 50)}, p95 ${ms(beside, 95)} (alone ${ms(alone, 50)}, ${ms(alone, 95)}); ${LARGE} images took ${ms(largeTimes, 50)}`,
      kept: percentile(beside, 95) < whole / 5,
    }
  } finally {
    await service.stop()
  }
}

/** Milliseconds per single image, sent one after the other, ascending; all photos once, and again while `more` holds. */
async function latencies(service: Service, singles: Call[], more: () => boolean): Promise<number[]> {
  const times: number[] = []
  while (more()) {
    for (const single of singles) {
      times.push(await time(service, single))
      await sleep(PAUSE_MS)
      if (!more()) break
    }
  }
  return times.toSorted((a, b) => a - b)
}

async function time(service: Service, call: Call): Promise<number> {
  const start = performance.now()
  const { status, body } = await send(service.url, call)
  if (status !== 200) throw new Error(`${call.images} images: ${status} ${body.toString('utf8', 0, 300)}`)
  return performance.now() - start
}

function ms(sorted: number[], percent: number): string {
  return `${percentile(sorted, percent).toFixed(0)} ms`
}
