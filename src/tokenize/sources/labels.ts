import { ItemError } from '../errors.ts'
import { byCodePoint } from './source.ts'

/** The largest label: classes are 32-bit integers in the loaders of some formats. */
const MOST = 2 ** 31 - 1

/** Turns labels as they are written into numbers: integers as they are, names into their rank. */
export interface Labels {
  /** Names by label; undefined where labels are integers. */
  classes: readonly string[] | undefined
  /** @throws ItemError for text that is not a label here */
  of(text: string): number
}

/** Whether text is a label that stands for itself. */
export function isInteger(text: string): boolean {
  return /^\d{1,10}$/.test(text) && Number(text) <= MOST
}

/** Labels that are integers. */
export const integerLabels: Labels = {
  classes: undefined,
  of(text) {
    if (isInteger(text)) return Number(text)
    throw new ItemError(`has the label ${JSON.stringify(text.slice(0, 100))}, which is not an integer of 0 to ${MOST}`)
  },
}

/** Labels that are names, each with its rank in string order as number. */
export function namedLabels(names: Iterable<string>): Labels {
  const classes = [...new Set(names)].sort(byCodePoint)
  const ranks = new Map(classes.map((name, rank) => [name, rank]))
  return {
    classes,
    of(text) {
      const rank = ranks.get(text)
      if (rank !== undefined) return rank
      throw new ItemError(
        `has the label ${JSON.stringify(text.slice(0, 100))}, which is none of the ${classes.length} classes`,
      )
    },
  }
}

/** Labels as all these texts are: integers if every one is, else names. */
export function labelsOf(texts: ReadonlySet<string>): Labels {
  return [...texts].every(isInteger) ? integerLabels : namedLabels(texts)
}
