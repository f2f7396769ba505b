import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseNpy } from '../../src/formats/npy.ts'
import { sha256 } from '../../src/inference/sha256.ts'
import { BUNDLE } from '../helpers/bundle.ts'

const root = join(import.meta.dirname, '../..')
export const photoFolder = join(root, 'test/fixtures/photos')

/** What a run of the command left behind. */
export interface Ended {
  /** Exit status, or the signal that ended it. */
  status: number | NodeJS.Signals | null
  stderr: string
}

/** `nativetok tokenize`, running. */
export interface Running {
  process: ChildProcess
  ended: Promise<Ended>
}

/** Starts the command with one engine of the default bundle, unless the arguments say otherwise. */
export function start(
  args: string[],
  options: { cwd?: string; under?: string[]; env?: NodeJS.ProcessEnv } = {},
): Running {
  const engines = args.includes('--url') || args.includes('--engines') ? [] : ['--engines', '1']
  const model = args.includes('--url') || args.includes('--model') ? [] : ['--model', BUNDLE]
  const command = [process.execPath, join(root, 'src/tokenize/main.ts'), ...args, ...engines, ...model]
  const [file, ...rest] = [...(options.under ?? []), ...command] as [string, ...string[]]
  const child = spawn(file, rest, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...options.env },
    ...(options.cwd !== undefined && { cwd: options.cwd }),
  })
  let stderr = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  const ended = once(child, 'close').then(([code, signal]): Ended => ({ status: code ?? signal, stderr }))
  return { process: child, ended }
}

/** Runs the command to its end. */
export function tokenize(args: string[], options: Parameters<typeof start>[1] = {}): Promise<Ended> {
  return start(args, options).ended
}

/** Writes `count` photos into two class folders, and a file that is no image after every 50th. */
export async function makeFolder(folder: string, count: number, broken = false): Promise<string> {
  const names = (await readdir(photoFolder)).filter((name) => name.endsWith('.webp')).sort()
  await mkdir(join(folder, 'a'), { recursive: true })
  await mkdir(join(folder, 'b'), { recursive: true })
  for (let i = 0; i < count; i++) {
    const name = join(folder, i % 2 === 0 ? 'a' : 'b', String(i).padStart(5, '0'))
    await copyFile(join(photoFolder, names[i % names.length] as string), `${name}.webp`)
    if (broken && i % 50 === 0) await writeFile(`${name}-broken.webp`, 'no image')
  }
  return folder
}

/** The digest of every file in a folder, by path. */
export async function digests(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  const found = await Promise.all(
    files.sort().map(async (file) => [file.slice(folder.length + 1), sha256(await readFile(file))] as const),
  )
  return Object.fromEntries(found)
}

/** The tokens of an output in the format `npy`: a row per view. */
export async function tokensOf(out: string): Promise<number[][]> {
  const { shape, data } = parseNpy(await readFile(join(out, 'tokens.npy')))
  const length = shape.at(-1) as number
  const rows = shape.slice(0, -1).reduce((product, n) => product * n, 1)
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length }, (_, i) => data.readUInt16LE((row * length + i) * 2)),
  )
}

export async function readJson(path: string): Promise<Record<string, never>> {
  return JSON.parse(await readFile(path, 'utf8'))
}
