import { readFile, stat, utimes, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { hashFile, type VerifiedFile } from '../bundle/files.ts'
import { copiesWeights, type Graph, type GraphFile } from '../graphs.ts'

/** Lists an entry's files; written last, so an entry without it is not whole. */
const LIST = 'entry.json'

interface List {
  /** Of the entry. Otherwise an entry that was moved or copied would pass for another bundle's. */
  name: string
  /** sha256 in hexadecimal, by file name. */
  files: Record<string, string>
}

/** The files of an optimised graph in an entry. */
export function filesOf({ name }: Pick<Graph, 'name'>): { file: string; weights: string } {
  return { file: `${name}.onnx`, weights: `${name}.weights` }
}

/**
 * Reads an entry of the cache and verifies it.
 * @returns the graphs, with the optimised files of those that the cache holds.
 * @throws Error with code `ENOENT` when there is none; Error saying what is wrong with it.
 */
export async function readEntry(folder: string, graphs: Graph[]): Promise<Graph[]> {
  const { uid, mode } = await stat(folder)
  // Whoever can write weights decides what tokens mean.
  if (process.getuid !== undefined && uid !== process.getuid() && uid !== 0)
    throw new Error('it belongs to another user')
  if ((mode & 0o022) !== 0) throw new Error('other users may write to it')
  const { name, files } = JSON.parse(await readFile(join(folder, LIST), 'utf8')) as List
  if (name !== basename(folder)) throw new Error(`it is ${name}`)
  const verified = new Map(
    await Promise.all(
      Object.entries(files).map(async ([name, sha256]) => {
        const found = await hashFile(join(folder, basename(name)), name)
        if (found.sha256 !== sha256) throw new Error(`${name} has changed`)
        return [name, found] as const
      }),
    ),
  )
  const now = new Date()
  // An entry that is never used is removed one day.
  await utimes(folder, now, now).catch(() => {})
  return graphs.map((graph) =>
    copiesWeights(graph) ? { ...graph, optimised: describe(folder, graph, verified) } : graph,
  )
}

/**
 * Lists the files that lie in a new entry, and returns the graphs as {@link readEntry} does.
 * @param name which its folder will have.
 */
export async function listEntry(folder: string, name: string, graphs: Graph[]): Promise<Graph[]> {
  const files: Record<string, string> = {}
  const verified = new Map<string, VerifiedFile>()
  for (const graph of graphs.filter(copiesWeights)) {
    for (const file of Object.values(filesOf(graph))) {
      const found = await hashFile(join(folder, file), file)
      verified.set(file, found)
      files[file] = found.sha256
    }
  }
  await writeFile(join(folder, LIST), JSON.stringify({ name, files } satisfies List))
  return graphs.map((graph) =>
    copiesWeights(graph) ? { ...graph, optimised: describe(folder, graph, verified) } : graph,
  )
}

function describe(folder: string, graph: Graph, verified: Map<string, VerifiedFile>): GraphFile {
  const names = filesOf(graph)
  const [file, weights] = [verified.get(names.file), verified.get(names.weights)]
  if (!file || !weights) throw new Error(`${LIST} does not list ${file ? names.weights : names.file}`)
  return {
    ...{ file: names.file, path: join(folder, names.file), bytes: file.bytes, sha256: file.sha256 },
    weights: weights.bytes === 0 ? [] : [{ file: names.weights, path: join(folder, names.weights), ...weights }],
  }
}
