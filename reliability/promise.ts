/** Something the service promises, and what was seen of it. */
export interface Finding {
  promise: string
  /** What was measured, with its unit. */
  figure: string
  kept: boolean
}

/** How long and thorough a run should be. */
export interface Scope {
  /** The long form, whose results are in the documentation; else the short form, which takes minutes. */
  long: boolean
  /** Seed of everything random, so that a run can be repeated. */
  seed: number
}

/** A group of promises that are tried together. Yields findings as they come; throws only if it cannot try them. */
export type Chapter = (scope: Scope) => AsyncGenerator<Finding>
