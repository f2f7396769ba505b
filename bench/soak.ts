import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Bar, bar, errorsOf } from './bars.ts'
import { encodeCalls } from './calls.ts'
import type { LoadResult } from './clients.ts'
import type { Contestant, Place } from './contestants.ts'
import { makeCrops, readImages } from './images.ts'
import { runScript } from './script.ts'
import { Server } from './server.ts'

/** Memory after so many images. */
export interface SoakRow {
  images: number
  memoryMiB: number
  errors: number
}

/**
 * Sends images to the service, encode and decode in turn, and reads the memory of its process tree on the way.
 *
 * @param marks numbers of images after which to read it, ascending
 */
export async function soak(
  service: Contestant,
  place: Omit<Place, 'port'> & { imageSize: number },
  marks: number[],
): Promise<SoakRow[]> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-'))
  try {
    const { crops } = await makeCrops(folder, place.imageSize)
    const [first] = await encodeCalls(await readImages(crops), 1)
    if (first === undefined) throw new Error('there are no crops')
    const server = await Server.start(service, place, first)
    try {
      const rows: SoakRow[] = []
      for (const [i, mark] of marks.entries()) {
        const result = await runScript<LoadResult>('clients.ts', {
          ...{ url: server.url, pid: server.pid, route: 'mix', clients: 32, photos: crops },
          ...{ images: mark - (marks[i - 1] ?? 0), seconds: 'Infinity', 'warm-up': 0 },
        })
        rows.push({ images: mark, memoryMiB: result.memoryMiB ?? Number.NaN, errors: errorsOf(result) })
      }
      return rows
    } finally {
      await server.stop()
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** What the memory has to keep to. */
export function soakBars(rows: SoakRow[]): Bar[] {
  const [first, last] = [rows[0], rows.at(-1)]
  if (first === undefined || last === undefined) return []
  return [
    bar(`memory after ${last.images} images over that after ${first.images}`, 'at most', 1.05, [
      last.memoryMiB / first.memoryMiB,
    ]),
    bar('errors', 'at most', 0, [rows.reduce((sum, { errors }) => sum + errors, 0)]),
  ]
}
