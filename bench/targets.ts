import { type Summary, summarize } from '../tools/statistics.ts'
import { type LoadName, loads, type Results, type Row } from './results.ts'

/** A target, what was measured in each round, and whether the median meets it. */
export interface Target {
  what: string
  target: string
  /** Absent if this run did not measure it. */
  measured?: Summary
  met?: boolean
}

type Measured = Pick<Results, 'rows' | 'baseline' | 'stages'>
type Relation = 'at least' | 'at most' | 'below'

const SERVICE = 'service'
/** Numbers of clients: for ratios, and for full load. */
const BUSY = 32
const FULL = 128
/** Loads with one kind of request. */
const simpleLoads = ['encode-crops', 'encode-photos', 'decode'] as const
/** The peer that was written for this comparison; the others follow their documentation. */
const BATCHING = 'fastapi-batch'

const holds: Record<Relation, (measured: number, limit: number) => boolean> = {
  'at least': (measured, limit) => measured >= limit,
  'at most': (measured, limit) => measured <= limit,
  below: (measured, limit) => measured < limit,
}

/**
 * The targets of a run. Ratios are taken within a round, in which both sides had the same machine, and their median is
 * compared with the target; "best" and "lowest" are those of the round.
 */
export function targetsOf(results: Measured): Target[] {
  const { rows, baseline, stages } = results
  const rounds = [...new Set([...rows, ...baseline].map(({ round }) => round))]
  const service = rows.filter(({ contestant }) => contestant === SERVICE)
  const peers = rows.filter(({ contestant }) => contestant !== SERVICE)
  const rivals = {
    'any peer': peers,
    'FastAPI as usual, Ray Serve and plain Fastify': peers.filter(({ contestant }) => contestant !== BATCHING),
  }
  const each = (measure: (round: number) => number | undefined) =>
    rounds.map(measure).filter((value) => value !== undefined && Number.isFinite(value)) as number[]
  const at = (from: Row[], round: number, load: LoadName, clients: number) =>
    from.filter((row) => row.round === round && row.load === load && row.clients === clients)
  // Older results also have a baseline that runs encoder and decoder on whole batches.
  const kinds = baseline.some((row) => !row.inParts) ? [false, true] : [true]
  const fastestOf = (round: number, load: LoadName, inParts: boolean) =>
    baseline
      .filter((row) => row.round === round && row.load === load && row.inParts === inParts)
      .toSorted(byThroughput)[0]
  const singleOf = (round: number, load: LoadName) =>
    baseline.find((row) => row.round === round && row.load === load && row.batch === 1)
  const worst = (value: (row: Row) => number | null) => (round: number) =>
    highest(service.filter((row) => row.round === round && row.clients === FULL).map(value))

  return [
    ...kinds.flatMap((inParts) =>
      simpleLoads.map((load) =>
        target(
          `processor time per image, baseline${inParts ? '' : ' on whole batches'} over service, ${BUSY} clients: ${loads[load].title}`,
          'at least',
          0.9,
          each((round) =>
            ratio(fastestOf(round, load, inParts)?.cpuMsPerImage, at(service, round, load, BUSY)[0]?.cpuMsPerImage),
          ),
        ),
      ),
    ),
    ...Object.entries(rivals).flatMap(([names, others]) =>
      (['encode-crops', 'encode-photos'] as const).flatMap((load) => [
        target(
          `throughput over the best of ${names}, ${BUSY} clients: ${loads[load].title}`,
          'at least',
          load === 'encode-crops' ? 1.05 : 1.5,
          each((round) =>
            ratio(
              at(service, round, load, BUSY)[0]?.imagesPerSecond,
              highest(at(others, round, load, BUSY).map((row) => row.imagesPerSecond)),
            ),
          ),
        ),
        target(
          `p99 latency over the lowest of ${names}, ${BUSY} clients: ${loads[load].title}`,
          'below',
          1,
          each((round) =>
            ratio(
              at(service, round, load, BUSY)[0]?.latencyMs.p99,
              lowest(at(others, round, load, BUSY).map((row) => row.latencyMs.p99)),
            ),
          ),
        ),
      ]),
    ),
    ...simpleLoads.map((load) =>
      target(
        `latency of a single request over the baseline's for one image: ${loads[load].title}`,
        'at most',
        1.15,
        each((round) => ratio(at(service, round, load, 1)[0]?.latencyMs.p50, singleOf(round, load)?.latencyMs.p50)),
      ),
    ),
    target(
      `p99 delay of the event loop, ${FULL} clients, worst load, ms`,
      'below',
      20,
      each(worst((row) => row.eventLoopMs)),
    ),
    target(`/health/live p99, ${FULL} clients, worst load, ms`, 'below', 50, each(worst((row) => row.health.p99))),
    ...(Object.keys(loads) as LoadName[]).map((load) =>
      target(
        `throughput at ${FULL} clients over that at ${BUSY}: ${loads[load].title}`,
        'at least',
        0.95,
        each((round) =>
          ratio(at(service, round, load, FULL)[0]?.imagesPerSecond, at(service, round, load, BUSY)[0]?.imagesPerSecond),
        ),
      ),
    ),
    target(
      'errors of the service, all loads',
      'at most',
      0,
      service.length === 0 ? [] : [service.reduce((sum, row) => sum + errorsOf(row), 0)],
    ),
    ...[1, 32].map((batch) =>
      target(
        `MoCET for the first stage over all stages, batch ${batch}`,
        'at most',
        0.3,
        stages
          .filter((row) => row.batch === batch)
          .map(({ milliseconds }) => {
            const times = Object.values(milliseconds)
            return (times[0] as number) / (times[1] as number)
          }),
      ),
    ),
  ]
}

/** Compares measurements, one per round, with a limit. */
export function target(what: string, relation: Relation, limit: number, values: number[]): Target {
  const held = { what, target: `${relation} ${limit}` }
  if (values.length === 0) return held
  const measured = summarize(values)
  return { ...held, measured, met: holds[relation](measured.median, limit) }
}

/** Requests that were answered with another status than 200, or not at all. */
export function errorsOf({ errors }: Pick<Row, 'errors'>): number {
  return Object.values(errors).reduce((sum, count) => sum + count, 0)
}

/** Sorts the most images per second first. */
export function byThroughput(a: { imagesPerSecond: number }, b: { imagesPerSecond: number }): number {
  return b.imagesPerSecond - a.imagesPerSecond
}

function ratio(a: number | null | undefined, b: number | null | undefined): number | undefined {
  return a == null || b == null ? undefined : a / b
}

function highest(values: (number | null)[]): number | undefined {
  const known = values.filter((value) => value !== null)
  return known.length === 0 ? undefined : Math.max(...known)
}

function lowest(values: (number | null)[]): number | undefined {
  const known = values.filter((value) => value !== null)
  return known.length === 0 ? undefined : Math.min(...known)
}
