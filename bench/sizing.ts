import type { Contestant } from './contestants.ts'
import { loads, type Row } from './results.ts'
import { type Target, target } from './targets.ts'

/** Numbers of clients to compare the settings with. */
export const SIZING_CLIENTS = [32]
/** Loads to compare the settings under. */
export const SIZING_LOADS = ['encode-crops', 'decode'] as const

/** The service as it sizes itself, and with settings that somebody might choose by hand for this many cores. */
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

/** How much the best setting by hand in each round may gain over the service's own. */
export function sizingTargets(service: Contestant, rows: readonly Row[]): Target[] {
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
    return target(
      `throughput of the best setting by hand over the service's own: ${loads[load].title}`,
      'below',
      1.1,
      gains,
    )
  })
}
