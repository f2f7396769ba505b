/** The median of some measurements, and their range. */
export interface Summary {
  median: number
  min: number
  max: number
}

/** @param values at least one */
export function summarize(values: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b)
  return { median: percentile(sorted, 50), min: sorted[0] as number, max: sorted.at(-1) as number }
}

/**
 * The value below which `percent` of the sorted values lie, between two of them by linear interpolation.
 *
 * @param sorted ascending, at least one
 */
export function percentile(sorted: readonly number[], percent: number): number {
  const at = ((sorted.length - 1) * percent) / 100
  const low = sorted[Math.floor(at)] as number
  const high = sorted[Math.ceil(at)] as number
  return low + (high - low) * (at % 1)
}
