import type { LoadResult } from '../tools/clients.ts'
import type { Agreement } from './agreement.ts'
import type { BaselineResult, StageResult } from './baseline.ts'

/** The requests: the route, and which images. */
export const loads = {
  'encode-crops': { route: 'encode', images: 'crops', title: 'encode, 128 px crops' },
  'encode-photos': { route: 'encode', images: 'photos', title: 'encode, full-size photos' },
  decode: { route: 'decode', images: 'crops', title: 'decode' },
  mix: { route: 'mix', images: 'crops', title: 'encode and decode in turn, 128 px crops' },
} as const

/** The baseline's name among the contestants. */
export const BASELINE = 'baseline'

export type LoadName = keyof typeof loads

/** One contestant under one load in one round. */
export interface Row extends LoadResult {
  round: number
  contestant: string
  load: LoadName
}

/** The baseline at one batch size in one round. */
export interface BaselineRow extends BaselineResult {
  round: number
  load: LoadName
}

/** Seconds from a contestant's start to its first answer. */
export interface ColdStart {
  round: number
  contestant: string
  seconds: number
}

/** A contestant and its outcome. */
export interface Entry {
  name: string
  title: string
  /** Absent if it never answered. */
  agreement?: Agreement
  /** Why it has no rows, or stopped early. */
  failure?: string
}

/** Everything measured in one run. */
export interface Results {
  machine: Record<string, string | number>
  entries: Entry[]
  rows: Row[]
  baseline: BaselineRow[]
  stages: (StageResult & { round: number })[]
  coldStarts: ColdStart[]
}
