import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { encodeCalls } from '../tools/calls.ts'
import type { LoadResult } from '../tools/clients.ts'
import { makeCrops, readImages } from '../tools/images.ts'
import { runScript } from '../tools/script.ts'
import type { Contestant, Place } from './contestants.ts'
import { startContestant } from './race.ts'
import { errorsOf, type Target, target } from './targets.ts'

/** Memory after a number of images. */
export interface SoakRow {
  images: number
  memoryMiB: number
  errors: number
}

/**
 * Sends images to the service, encode and decode in turn, and reads the memory of its process tree meanwhile.
 *
 * @param marks numbers of images after which to read the memory, ascending
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
    if (first === undefined) throw new Error('no crops were made')
    const server = await startContestant(service, place, first)
    try {
      const rows: SoakRow[] = []
      for (const [i, mark] of marks.entries()) {
        const result = await runScript<LoadResult>('tools/clients.ts', {
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

/** What memory and errors must not exceed. */
export function soakTargets(rows: SoakRow[]): Target[] {
  const [first, last] = [rows[0], rows.at(-1)]
  if (first === undefined || last === undefined) return []
  return [
    target(`memory after ${last.images} images over that after ${first.images}`, 'at most', 1.05, [
      last.memoryMiB / first.memoryMiB,
    ]),
    target('errors', 'at most', 0, [rows.reduce((sum, { errors }) => sum + errors, 0)]),
  ]
}
