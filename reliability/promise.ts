/** Something the service promises, and what was seen of it. */
export interface Finding {
  promise: string
  /** What was measured, with its unit. */
  figure: string
  kept: boolean
}

/** How long and how thorough a run is to be. */
export interface Scope {
  /** The long form, whose results are in the documentation; else the short one, of minutes. */
  long: boolean
  /** Seed of everything that is drawn at random, so that a run can be repeated. */
  seed: number
}

/** A group of promises that are tried together. Yields findings as they are made; throws only where it cannot try. */
export type Chapter = (scope: Scope) => AsyncGenerator<Finding>
