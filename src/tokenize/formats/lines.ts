import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { missing } from './format.ts'

/**
 * The lines of a text file, each ended by a line feed and nothing else: Node's readline also ends them at characters that
 * keys may have.
 *
 * @throws FormatError if the file is missing
 */
export async function* readLines(out: string, name: string): AsyncGenerator<string> {
  let rest = Buffer.alloc(0)
  try {
    for await (const chunk of createReadStream(join(out, name), { highWaterMark: 2 ** 20 })) {
      rest = Buffer.concat([rest, chunk])
      let start = 0
      for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10, start)) {
        yield rest.toString('utf8', start, end)
        start = end + 1
      }
      rest = rest.subarray(start)
    }
  } catch (error) {
    missing(name)(error as NodeJS.ErrnoException)
  }
  if (rest.length > 0) yield rest.toString()
}
