import { type Target, target } from './targets.ts'

/** Batch sizes of the bare loop; the fastest counts. */
export const BATCHES = [16, 32, 64]
/** Clients of the service. */
export const CLIENTS = 32

/** Images per second in one round. */
export interface TokenizeRow {
  round: number
  load: 'crops' | 'photos'
  loop: number
  command: number
  service: number
}

/** Memory of the command and its engines. */
export interface MemoryRow {
  /** Images done. */
  images: number
  memoryMiB: number
}

const titles = { crops: '128 px crops', photos: 'full-size photos' }

/** What the command must reach, by round, and what its memory must not exceed. */
export function tokenizeTargets(rows: readonly TokenizeRow[], memory: readonly MemoryRow[]): Target[] {
  const loads = Object.entries(titles) as [TokenizeRow['load'], string][]
  return [
    ...loads.flatMap(([load, title]) => {
      const of = rows.filter((row) => row.load === load)
      return [
        target(
          `images/s of the command over the bare loop: ${title}`,
          'at least',
          0.95,
          of.map(({ command, loop }) => command / loop),
        ),
        target(
          `images/s of the command over the service with ${CLIENTS} clients: ${title}`,
          'at least',
          1.2,
          of.map(({ command, service }) => command / service),
        ),
      ]
    }),
    target('highest memory of the second half of a long run over that of the first', 'at most', 1.05, growth(memory)),
  ]
}

function growth(memory: readonly MemoryRow[]): number[] {
  const last = memory.at(-1)?.images ?? 0
  const highest = (half: readonly MemoryRow[]) => Math.max(...half.map(({ memoryMiB }) => memoryMiB))
  const [first, second] = [
    memory.filter(({ images }) => images <= last / 2),
    memory.filter(({ images }) => images > last / 2),
  ]
  return first.length === 0 || second.length === 0 ? [] : [highest(second) / highest(first)]
}
