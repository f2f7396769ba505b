import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { Ajv, type JSONSchemaType } from 'ajv'
import { BundleError } from './errors.ts'
import { type Graph, graphTensors, type ModelShape } from './graphs.ts'
import { sha256 } from './sha256.ts'

const FORMAT = 1

/** `manifest.json` of a bundle, as far as the service reads it. */
export interface Manifest {
  format: typeof FORMAT
  name: string
  image: {
    size: number
    fit: 'cover'
    position: 'centre'
    kernel: 'lanczos3'
    space: 'srgb'
    background: '#ffffff'
  }
  tokens: { length: number; stages: number[] }
  codebook: { size: number; dimension: number }
  latents: { count: number; width: number }
  /** sha256 in hexadecimal, by file name. */
  files: Record<string, string>
  /** How it was trained and how good it is: for people to read, free in form. */
  training: object
  quality: object
}

/** A verified bundle. */
export interface Bundle {
  manifest: Manifest
  shape: ModelShape
  graphs: Graph[]
  /** What tokens mean: digest of the encoder, the `mocet` graphs and the codebook. */
  modelDigest: string
  /** Digest of every file. */
  bundleDigest: string
  /** Size of the graphs' files. */
  graphBytes: number
  /** The bytes of `codebook.npy`, float32 `[size, dimension]`. */
  codebookFile: Buffer
}

const count = { type: 'integer', minimum: 1 } as const

// Preprocessing is pinned to what this service does: a bundle trained on anything else must be refused, not misread.
const schema: JSONSchemaType<Manifest> = {
  type: 'object',
  required: ['format', 'name', 'image', 'tokens', 'codebook', 'latents', 'files', 'training', 'quality'],
  properties: {
    format: { type: 'integer', const: FORMAT },
    name: { type: 'string', minLength: 1 },
    image: {
      type: 'object',
      required: ['size', 'fit', 'position', 'kernel', 'space', 'background'],
      properties: {
        size: count,
        fit: { type: 'string', const: 'cover' },
        position: { type: 'string', const: 'centre' },
        kernel: { type: 'string', const: 'lanczos3' },
        space: { type: 'string', const: 'srgb' },
        background: { type: 'string', const: '#ffffff' },
      },
    },
    tokens: {
      type: 'object',
      required: ['length', 'stages'],
      properties: { length: count, stages: { type: 'array', items: count, minItems: 1 } },
    },
    codebook: {
      type: 'object',
      required: ['size', 'dimension'],
      // Ids cross as uint16.
      properties: { size: { ...count, maximum: 65536 }, dimension: count },
    },
    latents: { type: 'object', required: ['count', 'width'], properties: { count, width: count } },
    files: {
      type: 'object',
      required: [],
      propertyNames: { pattern: '^[A-Za-z0-9_-][A-Za-z0-9._-]*$' },
      additionalProperties: { type: 'string', pattern: '^[0-9a-f]{64}$' },
    },
    training: { type: 'object' },
    quality: { type: 'object' },
  },
}

/**
 * Reads a bundle folder and verifies it: the manifest against its schema, every file against its sha256, the codebook's
 * header against the manifest. The graphs' inputs and outputs are checked where the graphs are loaded.
 * @throws BundleError one sentence that names the file and what is wrong.
 */
export async function readBundle(folder: string): Promise<Bundle> {
  const manifestFile = await readFile(join(folder, 'manifest.json')).catch((error: unknown) => {
    throw new BundleError(`${join(folder, 'manifest.json')}: cannot be read (${reason(error)})`)
  })
  const manifest = parseManifest(manifestFile)
  const shape: ModelShape = {
    imageSize: manifest.image.size,
    stages: manifest.tokens.stages,
    latents: manifest.latents,
    codebook: manifest.codebook,
  }
  const graphs = graphTensors(shape).map((graph) => {
    const file = `${graph.name}.onnx`
    return { ...graph, file, path: join(folder, file), sha256: manifest.files[file] ?? '' }
  })
  checkFileList(manifest, graphs)
  await Promise.all(
    Object.entries(manifest.files).map(async ([file, sha256]) => {
      const found = await hashFile(join(folder, file)).catch((error: unknown) => {
        throw new BundleError(`${file}: cannot be read (${reason(error)})`)
      })
      if (found !== sha256) throw new BundleError(`${file}: sha256 is ${found}, the manifest says ${sha256}`)
    }),
  )
  const codebookFile = await readFile(join(folder, 'codebook.npy'))
  checkCodebook(codebookFile, manifest.codebook)

  const sizes = await Promise.all(graphs.map(async ({ path }) => (await stat(path)).size))
  const meaning = ['codebook.npy', ...graphs.map((graph) => graph.file).filter((file) => file !== 'decoder.onnx')]
  return {
    manifest,
    shape,
    graphs,
    modelDigest: digest(meaning.map((file) => manifest.files[file] ?? '')),
    bundleDigest: digest([...Object.values(manifest.files), sha256(manifestFile)]),
    graphBytes: sizes.reduce((sum, size) => sum + size, 0),
    codebookFile,
  }
}

function parseManifest(bytes: Buffer): Manifest {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    throw new BundleError(`manifest.json: is not JSON (${reason(error)})`)
  }
  if (typeof value === 'object' && value !== null && 'format' in value && value.format !== FORMAT) {
    throw new BundleError(
      `manifest.json: format ${JSON.stringify(value.format)} is not supported, this service reads format ${FORMAT}`,
    )
  }
  const valid = new Ajv().compile(schema)
  if (!valid(value)) {
    const [error] = valid.errors ?? []
    const allowed = error?.keyword === 'const' ? `: ${JSON.stringify(error.params.allowedValue)}` : ''
    throw new BundleError(`manifest.json: ${error?.instancePath || 'it'} ${error?.message}${allowed}`)
  }
  const { length, stages } = value.tokens
  if (stages.some((end, index) => end <= (stages[index - 1] ?? 0)) || stages.at(-1) !== length) {
    throw new BundleError(`manifest.json: stages [${stages}] do not ascend to the sequence length ${length}`)
  }
  return value
}

function checkFileList(manifest: Manifest, graphs: Graph[]): void {
  const needed = [...graphs.map((graph) => graph.file), 'codebook.npy', 'MODEL_CARD.md']
  const missing = needed.find((file) => !(file in manifest.files))
  if (missing) throw new BundleError(`manifest.json: lists no ${missing}`)
  const surplus = Object.keys(manifest.files).find((file) => file.endsWith('.onnx') && !needed.includes(file))
  if (surplus)
    throw new BundleError(`manifest.json: lists ${surplus}, which no stage of [${manifest.tokens.stages}] uses`)
}

/** The header of an NPY file of version 1 against the manifest: float32, little-endian, C order, `[size, dimension]`. */
function checkCodebook(bytes: Buffer, { size, dimension }: Manifest['codebook']): void {
  const wanted = `float32 [${size},${dimension}]`
  if (bytes.length < 10 || bytes.toString('latin1', 0, 8) !== '\x93NUMPY\x01\x00') {
    throw new BundleError(`codebook.npy: is not a NumPy file of version 1, the manifest promises ${wanted}`)
  }
  const start = 10 + bytes.readUInt16LE(8)
  const header = bytes.toString('latin1', 10, start).trim()
  const fits =
    /'descr':\s*'<f4'/.test(header) &&
    /'fortran_order':\s*False/.test(header) &&
    new RegExp(`'shape':\\s*\\(${size},\\s*${dimension}\\)`).test(header)
  if (!fits) throw new BundleError(`codebook.npy: header is ${header}, the manifest promises ${wanted}`)
  const length = bytes.length - start
  if (length !== size * dimension * Float32Array.BYTES_PER_ELEMENT) {
    throw new BundleError(`codebook.npy: holds ${length} bytes of data, the manifest promises ${wanted}`)
  }
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  return hash.digest('hex')
}

function digest(hashes: string[]): string {
  return sha256(Buffer.from(hashes.sort().join('\n')))
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
