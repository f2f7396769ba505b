import type { Agreement } from './agreement.ts'
import type { LimitResult, StageResult } from './bare.ts'
import type { LoadResult } from './clients.ts'

/** What is sent: a route, and which images. */
export const loads = {
  'encode-crops': { route: 'encode', images: 'crops', title: 'encode, 128 px crops' },
  'encode-photos': { route: 'encode', images: 'photos', title: 'encode, full-size photos' },
  decode: { route: 'decode', images: 'crops', title: 'decode' },
  mix: { route: 'mix', images: 'crops', title: 'encode and decode in turn, 128 px crops' },
} as const

/** Name under which the plain loop is entered. */
export const LIMIT = 'limit'

export type LoadName = keyof typeof loads

/** One contestant under one load in one round. */
export interface Row extends LoadResult {
  round: number
  contestant: string
  load: LoadName
}

/** The plain loop at one batch size in one round. */
export interface LimitRow extends LimitResult {
  round: number
  load: LoadName
}

/** Seconds from a contestant's start to its first answer. */
export interface ColdStart {
  round: number
  contestant: string
  seconds: number
}

/** How a contestant fared as a whole. */
export interface Entry {
  name: string
  title: string
  /** Absent where it did not get so far as to answer. */
  agreement?: Agreement
  /** Why it has no rows, or no more of them. */
  failure?: string
}

/** Everything measured in one run. */
export interface Results {
  machine: Record<string, string | number>
  entries: Entry[]
  rows: Row[]
  limits: LimitRow[]
  stages: (StageResult & { round: number })[]
  coldStarts: ColdStart[]
}
