import { join } from 'node:path'
import { type Format, FormatError, MOST_ID, MOST_LABEL, needLabels } from './format.ts'
import { ImageFilesWriter, int64File, type Layout, readInt64File } from './image-files.ts'
import { readKeys } from './keys-file.ts'
import { filesUnder } from './output-files.ts'

const CODES = 'codes/'

/**
 * RandAR's folders: codes/<label>/<i>.npy int64 [views, length], the label without leading zeros. `codes` is the loader's
 * root, in which everything has to be a class.
 */
export const randar: Format = {
  name: 'randar',
  version: 1,

  check(dataSet) {
    needLabels(dataSet, 'randar')
  },

  open(out, { views, length }, mark) {
    const layout: Layout = {
      folders: [CODES],
      files: ({ number, label, tokens }) => [[`${CODES}${label}/${number}.npy`, int64File([views, length], tokens)]],
    }
    return ImageFilesWriter.open(out, layout, mark)
  },

  async *read(out, { views, length }, rows) {
    const labels = await labelsByNumber(out, rows)
    let number = 0
    for await (const key of readKeys(out, rows)) {
      const label = labels[number] as number
      const ids = await readInt64File(out, `${CODES}${label}/${number}.npy`, [views, length], MOST_ID)
      yield { number, key, label, tokens: Uint16Array.from(ids) }
      number += 1
    }
  },
}

/** @throws FormatError unless every image has one file, in one class */
async function labelsByNumber(out: string, rows: number): Promise<Int32Array> {
  const labels = new Int32Array(rows).fill(-1)
  for (const path of await filesUnder(join(out, CODES))) {
    const [, label, number] = (/^(0|[1-9]\d*)\/(0|[1-9]\d*)\.npy$/.exec(path) ?? []).map(Number)
    if (label === undefined || number === undefined || label > MOST_LABEL || number >= rows) {
      throw new FormatError(`${CODES}${path} is no file of this data set`)
    }
    if (labels[number] !== -1) throw new FormatError(`image ${number} is in the classes ${labels[number]} and ${label}`)
    labels[number] = label
  }
  const missing = labels.indexOf(-1)
  if (missing >= 0) throw new FormatError(`image ${missing} is in no class of ${CODES}`)
  return labels
}
