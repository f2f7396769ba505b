import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

const root = join(import.meta.dirname, '..')

/**
 * Runs a script in its own process and reads the JSON that it prints.
 *
 * @param script its path in this repository
 */
export async function runScript<T>(script: string, options: Record<string, string | number>): Promise<T> {
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, `${value}`])
  const run = promisify(execFile)(process.execPath, [join(root, script), ...flags], { maxBuffer: 2 ** 26 })
  const { stdout } = await run.catch((error: Error & { stdout: string }) => {
    // A load without any answer ends with code 1, and its output has the errors.
    if (error.stdout) return error
    throw error
  })
  return JSON.parse(stdout) as T
}
