import { type DataSet, type Format, MOST_ID, MOST_LABEL, needLabels } from './format.ts'
import { ImageFilesWriter, int64File, type Layout, readInt64File } from './image-files.ts'
import { readKeys } from './keys-file.ts'

/**
 * LlamaGen's folders: codes/imagenet<SIZE>_codes/<i>.npy int64 [1, views, length] and codes/imagenet<SIZE>_labels/<i>.npy
 * int64 [1]. `codes` is what its training takes as --code-path.
 */
export const llamagen: Format = {
  name: 'llamagen',
  version: 1,

  check(dataSet) {
    needLabels(dataSet, 'llamagen')
  },

  open(out, dataSet, mark) {
    return ImageFilesWriter.open(out, layout(dataSet), mark)
  },

  async *read(out, dataSet, rows) {
    const { codes, labels } = folders(dataSet)
    const shape = [1, dataSet.views, dataSet.length]
    let number = 0
    for await (const key of readKeys(out, rows)) {
      const ids = await readInt64File(out, `${codes}${number}.npy`, shape, MOST_ID)
      const [label] = await readInt64File(out, `${labels}${number}.npy`, [1], MOST_LABEL)
      yield { number, key, label, tokens: Uint16Array.from(ids) }
      number += 1
    }
  },
}

const folders = ({ imageSize }: DataSet) => ({
  codes: `codes/imagenet${imageSize}_codes/`,
  labels: `codes/imagenet${imageSize}_labels/`,
})

function layout(dataSet: DataSet): Layout {
  const { codes, labels } = folders(dataSet)
  return {
    folders: [codes, labels],
    files: ({ number, label, tokens }) => [
      [`${codes}${number}.npy`, int64File([1, dataSet.views, dataSet.length], tokens)],
      [`${labels}${number}.npy`, int64File([1], [label as number])],
    ],
  }
}
