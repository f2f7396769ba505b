import { type LoadName, loads, type Results, type Row } from './results.ts'
import { type Summary, summarize } from './statistics.ts'

/** Something that is to hold, what was measured of it in each round, and whether the median holds. */
export interface Bar {
  what: string
  bar: string
  /** Absent where this run did not measure it. */
  measured?: Summary
  met?: boolean
}

type Measured = Pick<Results, 'rows' | 'limits' | 'stages'>
type Relation = 'at least' | 'at most' | 'below'

const SERVICE = 'service'
/** Clients at which ratios are taken, and those that are the full load. */
const BUSY = 32
const FULL = 128
/** Loads of one kind of work. */
const simpleLoads = ['encode-crops', 'encode-photos', 'decode'] as const
/** The peer that is written for this comparison; the others are what their documentation shows. */
const BATCHING = 'fastapi-batch'

const holds: Record<Relation, (measured: number, limit: number) => boolean> = {
  'at least': (measured, limit) => measured >= limit,
  'at most': (measured, limit) => measured <= limit,
  below: (measured, limit) => measured < limit,
}

/**
 * The bars of a run. Ratios are taken within a round, where both sides met the same machine, and their median is held
 * against the bar; "best" and "lowest" are those of the round.
 */
export function barsOf(results: Measured): Bar[] {
  const { rows, limits, stages } = results
  const rounds = [...new Set([...rows, ...limits].map(({ round }) => round))]
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
  const limitOf = (round: number, load: LoadName, cut: boolean) =>
    limits.filter((row) => row.round === round && row.load === load && row.cut === cut).toSorted(byThroughput)[0]
  const singleOf = (round: number, load: LoadName) =>
    limits.find((row) => row.round === round && row.load === load && row.batch === 1)
  const worst = (value: (row: Row) => number | null) => (round: number) =>
    highest(service.filter((row) => row.round === round && row.clients === FULL).map(value))

  return [
    ...[false, true].flatMap((cut) =>
      simpleLoads.map((load) =>
        bar(
          `processor time an image, limit${cut ? ' in parts' : ''} over service, ${BUSY} clients: ${loads[load].title}`,
          'at least',
          0.9,
          each((round) =>
            ratio(limitOf(round, load, cut)?.cpuMsPerImage, at(service, round, load, BUSY)[0]?.cpuMsPerImage),
          ),
        ),
      ),
    ),
    ...Object.entries(rivals).flatMap(([names, others]) =>
      (['encode-crops', 'encode-photos'] as const).flatMap((load) => [
        bar(
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
        bar(
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
      bar(
        `latency of a single request over image and graphs alone: ${loads[load].title}`,
        'at most',
        1.15,
        each((round) => ratio(at(service, round, load, 1)[0]?.latencyMs.p50, singleOf(round, load)?.latencyMs.p50)),
      ),
    ),
    bar(
      `p99 delay of the event loop, ${FULL} clients, worst load, ms`,
      'below',
      20,
      each(worst((row) => row.eventLoopMs)),
    ),
    bar(`/health/live p99, ${FULL} clients, worst load, ms`, 'below', 50, each(worst((row) => row.health.p99))),
    ...(Object.keys(loads) as LoadName[]).map((load) =>
      bar(
        `throughput at ${FULL} clients over that at ${BUSY}: ${loads[load].title}`,
        'at least',
        0.95,
        each((round) =>
          ratio(at(service, round, load, FULL)[0]?.imagesPerSecond, at(service, round, load, BUSY)[0]?.imagesPerSecond),
        ),
      ),
    ),
    bar(
      'errors of the service, all loads',
      'at most',
      0,
      service.length === 0 ? [] : [service.reduce((sum, row) => sum + errorsOf(row), 0)],
    ),
    ...[1, 32].map((batch) =>
      bar(
        `MoCET for the first stage over all of them, batch ${batch}`,
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

/** Holds measurements, one a round, against a limit. */
export function bar(what: string, relation: Relation, limit: number, values: number[]): Bar {
  const held = { what, bar: `${relation} ${limit}` }
  if (values.length === 0) return held
  const measured = summarize(values)
  return { ...held, measured, met: holds[relation](measured.median, limit) }
}

/** Answers other than 200, and none. */
export function errorsOf({ errors }: Pick<Row, 'errors'>): number {
  return Object.values(errors).reduce((sum, count) => sum + count, 0)
}

/** The most images a second first. */
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
