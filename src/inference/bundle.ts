import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkCodebook } from './bundle/codebook.ts'
import { type VerifiedFile, verifyFiles } from './bundle/files.ts'
import { type Manifest, parseManifest } from './bundle/manifest.ts'
import { BundleError, messageOf } from './errors.ts'
import { type ExternalWeights, type Graph, graphTensors, type ModelShape } from './graphs.ts'
import { sha256 } from './sha256.ts'

export type { ImagePreparation, Manifest, Source } from './bundle/manifest.ts'

/** A verified bundle. */
export interface Bundle {
  manifest: Manifest
  shape: ModelShape
  graphs: Graph[]
  /** Identifies what tokens mean: the digest of the codebook and of every graph that makes tokens, with its weights. */
  modelDigest: string
  /** The digest of all files. */
  bundleDigest: string
  /** The bytes of `codebook.npy`, float32 `[size, dimension]`. */
  codebookFile: Buffer
}

/**
 * Reads a bundle folder and verifies it: the manifest against its schema, every file against its sha256, the codebook's
 * header against the manifest. The graphs' inputs and outputs are checked when the graphs are loaded.
 * @throws BundleError one sentence that names the file and what is wrong.
 */
export async function readBundle(folder: string): Promise<Bundle> {
  const manifestFile = await readFile(join(folder, 'manifest.json')).catch((error: unknown) => {
    throw new BundleError(`${join(folder, 'manifest.json')}: cannot be read (${messageOf(error)})`)
  })
  const manifest = parseManifest(manifestFile)
  const { shape, files } = manifest
  const verified = await verifyFiles(folder, files)
  const codebookFile = await readFile(join(folder, 'codebook.npy'))
  if (sha256(codebookFile) !== files['codebook.npy']) {
    throw new BundleError('codebook.npy: changed while it was being read')
  }
  checkCodebook(codebookFile, shape.codebook)

  const graphs = graphTensors(shape).map((tensors): Graph => {
    const { file, weights } = manifest.graphs[tensors.name] ?? { file: '', weights: [] }
    const external = weights.map((name): ExternalWeights => {
      return { file: name, path: join(folder, name), ...of(verified, name) }
    })
    const { sha256, bytes } = of(verified, file)
    return { ...tensors, file, path: join(folder, file), bytes, sha256, weights: external }
  })
  const meaning = new Set(['codebook.npy'])
  for (const { name, file, weights } of graphs) {
    if (name !== 'decoder') for (const made of [file, ...weights.map((one) => one.file)]) meaning.add(made)
  }
  return {
    manifest,
    shape,
    graphs,
    modelDigest: digest([...meaning].map((file) => files[file] ?? '')),
    bundleDigest: digest([...Object.values(files), sha256(manifestFile)]),
    codebookFile,
  }
}

function of(verified: Map<string, VerifiedFile>, file: string): VerifiedFile {
  const found = verified.get(file)
  if (!found) throw new BundleError(`manifest.json: files does not list ${file}`)
  return found
}

function digest(hashes: string[]): string {
  return sha256(Buffer.from(hashes.sort().join('\n')))
}
