import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** Runs a script of this folder as a process of its own and reads the JSON that it prints. */
export async function runScript<T>(script: string, options: Record<string, string | number>): Promise<T> {
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, `${value}`])
  const file = join(import.meta.dirname, script)
  const { stdout } = await promisify(execFile)(process.execPath, [file, ...flags], { maxBuffer: 2 ** 26 }).catch(
    (error: Error & { stdout: string }) => {
      // A load that nobody answered ends with code 1 and has its errors in what it printed.
      if (error.stdout) return error
      throw error
    },
  )
  return JSON.parse(stdout) as T
}
