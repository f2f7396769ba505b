import { type Bar, bar } from './bars.ts'
import type { Contestant } from './contestants.ts'
import { loads, type Row } from './results.ts'

/** Clients that the settings are compared under. */
export const SIZING_CLIENTS = [32]
/** Loads that the settings are compared under. */
export const SIZING_LOADS = ['encode-crops', 'decode'] as const

/** The service as it sizes itself, and as somebody might set it by hand on so many cores. */
export function sizings(service: Contestant, cores: number): Contestant[] {
  const settings = [
    ['--engines', '1', '--threads', `${cores}`],
    ['--engines', `${cores}`, '--threads', '2'],
    ['--engines', `${cores + 1}`, '--threads', '1'],
    ['--max-batch', '8'],
    ['--max-batch', '64'],
  ]
  const byHand = settings.map((flags) => ({
    ...service,
    ...{ name: flags.join(' '), title: `\`${flags.join(' ')}\`` },
    command: (place: Parameters<Contestant['command']>[0]) => [...service.command(place), ...flags],
  }))
  return [service, ...byHand]
}

/** What the best setting by hand in each round may gain over the service's own. */
export function sizingBars(service: Contestant, rows: readonly Row[]): Bar[] {
  return SIZING_LOADS.map((load) => {
    const rounds = [
      ...Map.groupBy(
        rows.filter((row) => row.load === load),
        ({ round }) => round,
      ).values(),
    ]
    const gains = rounds.map((row) => {
      const own = row.find(({ contestant }) => contestant === service.name)?.imagesPerSecond ?? Number.NaN
      const byHand = row.filter(({ contestant }) => contestant !== service.name)
      return Math.max(...byHand.map(({ imagesPerSecond }) => imagesPerSecond)) / own
    })
    return bar(
      `throughput of the best setting by hand over the service's own: ${loads[load].title}`,
      'below',
      1.1,
      gains,
    )
  })
}
