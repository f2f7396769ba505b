import { Ajv, type JSONSchemaType } from 'ajv'
import { BundleError } from '../errors.ts'
import { graphTensors, type ModelShape, sequenceLength } from '../graphs.ts'

/** How photos are turned into the encoder's pixels. */
export interface ImagePreparation {
  /** Width and height of the result, in pixels. */
  size: number
  kernel: 'lanczos3' | 'bicubic'
  /** How the length of the longer side is rounded when the shorter one becomes `size`. */
  longerSide: 'round' | 'floor'
  /** How half of an odd excess is rounded when the centre is cropped. */
  cropOffset: 'floor' | 'ceil' | 'half-even'
  space: 'srgb'
  background: '#ffffff'
}

/** Where the weights came from. */
export interface Source {
  family?: string
  file?: string
  sha256?: string
  url?: string
  licence: string
}

/** A graph's files: the ONNX file and its external weights. */
export interface GraphFiles {
  file: string
  weights: string[]
}

/** What the service reads from a bundle's `manifest.json`, of either format. */
export interface Manifest {
  name: string
  shape: ModelShape
  image: ImagePreparation
  /** Whether `codebook.npy` holds unit vectors. */
  normalised: boolean
  /** By the graph's name. */
  graphs: Record<string, GraphFiles>
  /** sha256 in hexadecimal, by file name. */
  files: Record<string, string>
  source: Source | undefined
}

interface Common {
  name: string
  tokens: { length: number; stages: number[] }
  files: Record<string, string>
  training: object
  quality: object
}

interface Format1 extends Common {
  format: 1
  image: { size: number; fit: 'cover'; position: 'centre'; kernel: 'lanczos3'; space: 'srgb'; background: '#ffffff' }
  codebook: { size: number; dimension: number }
  latents: { count: number; width: number }
}

interface Format2 extends Common {
  format: 2
  kind: ModelShape['kind']
  prefixes: boolean
  image: {
    size: number
    kernel: ImagePreparation['kernel']
    longer_side: ImagePreparation['longerSide']
    crop_offset: ImagePreparation['cropOffset']
    space: 'srgb'
    background: '#ffffff'
  }
  codebook: { size: number; dimension: number; normalised: boolean }
  handover: ModelShape['handover']
  latents?: { count: number; width: number }
  state?: { width: number }
  graphs: Record<string, { file: string; weights?: string[] }>
  source: Source
}

const count = { type: 'integer', minimum: 1 } as const
const text = { type: 'string', minLength: 1 } as const
const fileName = { type: 'string', pattern: '^[A-Za-z0-9_-][A-Za-z0-9._-]*$' } as const
/** Tokens are uint16. */
const size = { ...count, maximum: 65_536 }
const latents = {
  type: 'object',
  required: ['count', 'width'],
  properties: { count, width: count },
} as const
const common = {
  name: text,
  tokens: {
    type: 'object',
    required: ['length', 'stages'],
    properties: {
      length: { ...count, maximum: 65_535 },
      stages: { type: 'array', items: count, minItems: 1 },
    },
  },
  files: {
    type: 'object',
    required: [],
    propertyNames: { pattern: fileName.pattern },
    additionalProperties: { type: 'string', pattern: '^[0-9a-f]{64}$' },
  },
  training: { type: 'object' },
  quality: { type: 'object' },
} as const
const srgb = {
  space: { type: 'string', const: 'srgb' },
  background: { type: 'string', const: '#ffffff' },
} as const

// An unknown way of preparing images is refused, not misread.
const format1: JSONSchemaType<Format1> = {
  type: 'object',
  required: ['format', 'name', 'image', 'tokens', 'codebook', 'latents', 'files', 'training', 'quality'],
  properties: {
    ...common,
    format: { type: 'integer', const: 1 },
    image: {
      type: 'object',
      required: ['size', 'fit', 'position', 'kernel', 'space', 'background'],
      properties: {
        size: count,
        fit: { type: 'string', const: 'cover' },
        position: { type: 'string', const: 'centre' },
        kernel: { type: 'string', const: 'lanczos3' },
        ...srgb,
      },
    },
    codebook: { type: 'object', required: ['size', 'dimension'], properties: { size, dimension: count } },
    latents,
  },
}

const format2: JSONSchemaType<Format2> = {
  type: 'object',
  required: [
    ...(['format', 'name', 'kind', 'prefixes', 'image', 'tokens', 'codebook', 'handover'] as const),
    ...(['graphs', 'files', 'source', 'training', 'quality'] as const),
  ],
  properties: {
    ...common,
    format: { type: 'integer', const: 2 },
    kind: { type: 'string', enum: ['causal', 'parallel'] },
    prefixes: { type: 'boolean' },
    image: {
      type: 'object',
      required: ['size', 'kernel', 'longer_side', 'crop_offset', 'space', 'background'],
      properties: {
        size: count,
        kernel: { type: 'string', enum: ['lanczos3', 'bicubic'] },
        longer_side: { type: 'string', enum: ['round', 'floor'] },
        crop_offset: { type: 'string', enum: ['floor', 'ceil', 'half-even'] },
        ...srgb,
      },
    },
    codebook: {
      type: 'object',
      required: ['size', 'dimension', 'normalised'],
      properties: { size, dimension: count, normalised: { type: 'boolean' } },
    },
    handover: { type: 'string', enum: ['ids', 'state', 'none'] },
    latents: { ...latents, nullable: true },
    state: { type: 'object', required: ['width'], properties: { width: count }, nullable: true },
    graphs: {
      type: 'object',
      required: [],
      additionalProperties: {
        type: 'object',
        required: ['file'],
        properties: { file: fileName, weights: { type: 'array', items: fileName, nullable: true } },
      },
    },
    source: {
      type: 'object',
      required: ['licence'],
      properties: {
        family: { ...text, nullable: true },
        file: { ...text, nullable: true },
        sha256: { type: 'string', pattern: '^[0-9a-f]{64}$', nullable: true },
        url: { ...text, nullable: true },
        licence: text,
      },
    },
  },
}

/**
 * Reads a manifest of format 1 or 2.
 * @throws BundleError one sentence that says what is wrong.
 */
export function parseManifest(bytes: Buffer): Manifest {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    throw wrong(`is not JSON (${error instanceof Error ? error.message : error})`)
  }
  const format = typeof value === 'object' && value !== null && 'format' in value ? value.format : undefined
  if (format !== undefined && format !== 1 && format !== 2) {
    throw wrong(`format ${JSON.stringify(format)} is not supported; this service reads formats 1 and 2`)
  }
  const manifest = format === 2 ? fromFormat2(checked(format2, value)) : fromFormat1(checked(format1, value))
  checkStages(manifest.shape)
  checkFiles(manifest)
  return manifest
}

function checked<T>(schema: JSONSchemaType<T>, value: unknown): T {
  const valid = new Ajv().compile(schema)
  if (valid(value)) return value
  const [error] = valid.errors ?? []
  const { allowedValue, allowedValues = allowedValue } = error?.params ?? {}
  const allowed = allowedValues === undefined ? '' : `: ${JSON.stringify(allowedValues)}`
  throw wrong(`${error?.instancePath || 'it'} ${error?.message}${allowed}`)
}

function fromFormat1({ name, image, tokens, codebook, latents, files }: Format1): Manifest {
  const shape: ModelShape = {
    kind: 'causal',
    prefixes: true,
    imageSize: image.size,
    stages: tokens.stages,
    handover: 'ids',
    latents,
    state: undefined,
    codebook,
  }
  checkLength(shape, tokens.length)
  return {
    name,
    shape,
    image: {
      size: image.size,
      kernel: image.kernel,
      longerSide: 'round',
      cropOffset: 'ceil',
      space: image.space,
      background: image.background,
    },
    normalised: true,
    graphs: Object.fromEntries(graphTensors(shape).map((graph) => [graph.name, inside(graph.name)])),
    files,
    source: undefined,
  }
}

function inside(name: string): GraphFiles {
  return { file: `${name}.onnx`, weights: [] }
}

function fromFormat2(manifest: Format2): Manifest {
  const { name, kind, prefixes, image, tokens, codebook, handover, latents, state, graphs, files, source } = manifest
  if ((kind === 'parallel') !== (handover === 'none')) {
    throw wrong(`kind ${kind} cannot have handover ${handover}; parallel has none, causal has ids or state`)
  }
  if ((latents === undefined) !== (kind === 'parallel')) {
    throw wrong(kind === 'parallel' ? 'a parallel bundle must not have latents' : 'a causal bundle must have latents')
  }
  if ((state === undefined) !== (handover !== 'state')) {
    throw wrong(`with handover ${handover} there must be ${state ? 'no' : 'a'} state`)
  }
  const { dimension } = codebook
  const shape: ModelShape = {
    ...{ kind, prefixes, imageSize: image.size, stages: tokens.stages, handover, latents, state },
    codebook: { size: codebook.size, dimension },
  }
  checkLength(shape, tokens.length)
  if (kind === 'parallel' && tokens.stages.length > 1) {
    throw wrong(`a parallel bundle must have one stage, not [${tokens.stages}]`)
  }
  const names = graphTensors(shape).map((graph) => graph.name)
  const missing = names.find((graph) => !graphs[graph])
  if (missing) throw wrong(`graphs has no ${missing}`)
  const surplus = Object.keys(graphs).find((graph) => !names.includes(graph))
  if (surplus) throw wrong(`graphs has ${surplus}, which this kind of model does not use`)
  return {
    name,
    shape,
    image: {
      size: image.size,
      kernel: image.kernel,
      longerSide: image.longer_side,
      cropOffset: image.crop_offset,
      space: image.space,
      background: image.background,
    },
    normalised: codebook.normalised,
    graphs: Object.fromEntries(
      Object.entries(graphs).map(([graph, { file, weights }]) => [graph, { file, weights: weights ?? [] }]),
    ),
    files,
    source,
  }
}

function checkLength(shape: ModelShape, length: number): void {
  if (sequenceLength(shape) !== length) throw doNotAscend(shape, length)
}

function checkStages(shape: ModelShape): void {
  const { stages } = shape
  if (stages.some((end, index) => end <= (stages[index - 1] ?? 0))) throw doNotAscend(shape, sequenceLength(shape))
}

function doNotAscend({ stages }: ModelShape, length: number): BundleError {
  return wrong(`stages [${stages}] do not ascend to the sequence length ${length}`)
}

function checkFiles({ graphs, files }: Manifest): void {
  const used = Object.values(graphs).flatMap(({ file, weights }) => [file, ...weights])
  const missing = [...used, 'codebook.npy', 'MODEL_CARD.md'].find((file) => !Object.hasOwn(files, file))
  if (missing) throw wrong(`files does not list ${missing}`)
  const surplus = Object.keys(files).find((file) => file.endsWith('.onnx') && !used.includes(file))
  if (surplus) throw wrong(`files lists ${surplus}, which no graph of the model uses`)
}

function wrong(what: string): BundleError {
  return new BundleError(`manifest.json: ${what}`)
}
