import { join } from 'node:path'
import { readObject, writeWhole } from './durable.ts'
import { type Mark, WORK } from './formats/format.ts'
import type { Plan } from './manifest.ts'
import type { Position } from './sources/source.ts'

/** Where a run stands: everything up to here is on disk. */
export interface State {
  position: Position
  rows: number
  errors: { count: number; bytes: number }
  /** Labels of the rows, ascending. */
  labels: number[]
  /** Where the output stands; undefined before the first commit. */
  mark: Mark | undefined
}

/** What a run leaves in its output folder, so that it can go on after it was stopped. */
export interface Journal {
  plan: Plan
  state: State
}

/** The folder in an output that holds the journal; it is removed at the end. */
export function workFolder(out: string): string {
  return join(out, WORK)
}

/** Where every run begins. */
export const beginning: State = {
  position: { image: 0 },
  rows: 0,
  errors: { count: 0, bytes: 0 },
  labels: [],
  mark: undefined,
}

/** @throws OptionsError if it is damaged */
export async function readJournal(out: string): Promise<Journal | undefined> {
  return (await readObject(fileOf(out), ['plan', 'state'])) as Journal | undefined
}

export async function writeJournal(out: string, journal: Journal): Promise<void> {
  await writeWhole(fileOf(out), JSON.stringify(journal))
}

function fileOf(out: string): string {
  return join(workFolder(out), 'journal.json')
}
