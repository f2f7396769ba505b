import { preparationOf, viewsOf } from '../crops.ts'
import { ItemError } from '../errors.ts'
import type { Row } from '../formats/format.ts'
import type { Manifest } from '../manifest.ts'
import type { Source } from '../sources/source.ts'
import type { Tokenizer } from '../tokenizers/tokenizer.ts'
import { type Finding, plural } from './checks.ts'

/** Some rows of an output, evenly spread, to be encoded again. */
export class Sample {
  readonly rows: Row[] = []
  readonly #numbers: ReadonlySet<number>

  /** @param size how many, if there are that many rows */
  constructor(rows: number, size: number) {
    const count = Math.min(rows, size)
    this.#numbers = new Set(Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * rows) / count)))
  }

  wants(number: number): boolean {
    return this.#numbers.has(number)
  }

  add(row: Row): void {
    this.rows.push(row)
  }
}

/**
 * Rows by the position of their images in the source.
 * @param failures positions of the images that have no row, in order
 */
function bySource(rows: readonly Row[], failures: readonly number[]): Map<number, Row> {
  const found = new Map<number, Row>()
  let failed = 0
  for (const row of rows) {
    while ((failures[failed] ?? Number.POSITIVE_INFINITY) <= row.number + failed) failed += 1
    found.set(row.number + failed, row)
  }
  return found
}

/**
 * Encodes the images of a sample again and compares keys, labels and tokens.
 * @param failures positions in the source of the images that failed, in order
 */
export async function* checkSample(
  { rows }: Sample,
  { tokens: made, preprocessing, model, source: from, provider }: Manifest,
  {
    source,
    failures,
    tokenizer,
    maxPixels,
  }: { source: Source; failures: readonly number[]; tokenizer: Tokenizer; maxPixels: number },
): AsyncGenerator<Finding> {
  const check = 'sample'
  const wrong = (says: string): Finding => ({ check, ok: false, says })
  if (source.digest !== from.digest) {
    yield wrong('the source has changed: its listing is not that of tokens.json')
    return
  }
  if (tokenizer.model.model !== model.digest) {
    yield wrong(`${tokenizer.model.name} makes other tokens than the ${model.name} that made these`)
    return
  }
  if (JSON.stringify(preparationOf(made, tokenizer.model.image)) !== JSON.stringify(preprocessing)) {
    yield wrong('images are prepared in another way than tokens.json says')
    return
  }
  const left = bySource(rows, failures)
  let failed = 0
  const fail = (says: string) => {
    failed += 1
    return wrong(says)
  }
  for await (const item of source.items({ image: 0 })) {
    const row = left.get(item.index)
    if (row === undefined) continue
    left.delete(item.index)
    if (item.key !== row.key) {
      yield fail(`image ${item.index} has the key ${row.key}, in the source ${item.key}`)
      continue
    }
    if (item.label !== row.label) yield fail(`${item.key} has the label ${row.label}, in the source ${item.label}`)
    try {
      const views = await viewsOf(await item.read(), made, tokenizer.model.image, maxPixels)
      const encoded = await Promise.all(views.map((pixels) => tokenizer.encode(pixels, made.length)))
      const again = encoded.flatMap((ids) => [...ids])
      const different = again.filter((id, i) => id !== row.tokens[i]).length
      if (different > 0) yield fail(`${different} of ${again.length} tokens of ${item.key} are other ones now`)
    } catch (error) {
      if (!(error instanceof ItemError)) throw error
      yield fail(`${item.key} ${error.message}`)
    }
    if (left.size === 0) break
  }
  for (const { key } of left.values()) yield fail(`${key} is not in the source`)
  if (failed > 0) return
  const { provider: here } = tokenizer.model
  const where = here === provider ? here : `${here}, at first with ${provider}`
  yield {
    check,
    ok: true,
    says: `${plural(rows.length, 'image', 'images')} encoded again with ${where}: the same tokens`,
  }
}
