import { FormatError, type Row } from './format.ts'
import { readLines } from './lines.ts'

/** The index of formats that have no place for keys: line i is the key of image i. */
export const KEYS_FILE = 'keys.txt'

/** A key as a line: a backslash, a line feed and a carriage return become `\\`, `\n` and `\r`. */
export function keyLines(rows: readonly Row[]): Buffer {
  return Buffer.from(
    rows.map(({ key }) => `${key.replaceAll(/[\\\n\r]/g, (found) => escapes[found] as string)}\n`).join(''),
  )
}

const escapes: Record<string, string> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r' }
const unescapes: Record<string, string> = { '\\\\': '\\', '\\n': '\n', '\\r': '\r' }

/**
 * Reads the keys back in order.
 *
 * @throws FormatError unless there are `rows` of them
 */
export async function* readKeys(out: string, rows: number): AsyncGenerator<string> {
  let count = 0
  for await (const line of readLines(out, KEYS_FILE)) {
    count += 1
    if (count > rows) throw new FormatError(`${KEYS_FILE} has more than the ${rows} lines that it should have`)
    yield line.replaceAll(/\\[\\nr]/g, (found) => unescapes[found] as string)
  }
  if (count < rows) throw new FormatError(`${KEYS_FILE} has ${count} lines instead of ${rows}`)
}
