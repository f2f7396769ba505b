import { isDeepStrictEqual } from 'node:util'
import { parseDocument } from 'yaml'
import type { ModelInfo } from '../inference/inference.ts'
import type { Contract } from './contract.ts'

type Sizes = Pick<ModelInfo, 'kind' | 'prefixes' | 'imageSize' | 'length' | 'codebook'>

/** The contract with the sizes of the model that is served. In the file they are the default bundle's. */
export function contractFor(contract: Contract, model: Sizes): Contract {
  const changes = placesOf(model).filter(([path, value]) => !isDeepStrictEqual(valueAt(contract.document, path), value))
  // Serialising the same document again would change its formatting.
  if (changes.length === 0) return contract
  const document = parseDocument(contract.text)
  for (const [path, value] of changes) document.setIn(path, value)
  return { text: document.toString({ lineWidth: 0 }), document: document.toJS() }
}

function valueAt(document: object, path: (string | number)[]): unknown {
  return path.reduce((value: unknown, key) => (value as Record<string | number, unknown>)[key], document)
}

/** Where sizes occur in the document, and their values. */
function placesOf({
  kind,
  prefixes,
  imageSize,
  length,
  codebook,
}: Sizes): [path: (string | number)[], value: unknown][] {
  const npy = (...place: string[]) => [...place, 'content', 'application/x-npy', 'x-array']
  const encode = ['paths', '/encode', 'post']
  const decode = ['paths', '/decode', 'post']
  const parameter = [...encode, 'parameters', 0]
  const causal = kind === 'causal'
  const ids = (given: number[]) => given.slice(0, length).map((id) => Math.min(id, codebook.size - 1))
  const whole = Array.from({ length }, (_, i) => (i * 997) % codebook.size)
  const encoded = causal ? ids([3071, 12, 880, 4095]) : whole
  const [row, other] = prefixes ? [ids([3071, 12, 880, 4095]), ids([7])] : [whole, whole]
  const answer = [...encode, 'responses', '200', 'content', 'application/json', 'example']
  const examples = [...decode, 'requestBody', 'content', 'application/json', 'examples']
  return [
    [
      [...parameter, 'description'],
      causal
        ? `Tokens per image. They are the first of the whole encoding. Without it, all ${length}.`
        : `Tokens per image: ${length} or nothing, since only a whole sequence means something.`,
    ],
    [[...parameter, 'schema', 'maximum'], length],
    [[...parameter, 'example'], causal ? Math.min(32, length) : length],
    [npy(...encode, 'requestBody'), `uint8 [N, ${imageSize}, ${imageSize}, 3], C order`],
    [[...answer, 'length'], encoded.length],
    [[...answer, 'tokens'], [encoded]],
    [[...examples, 'one', 'value', 'tokens'], row],
    [
      [...examples, 'batch', 'value', 'tokens'],
      [row, other],
    ],
    [npy(...decode, 'responses', '200'), `uint8 [N, ${imageSize}, ${imageSize}, 3], C order; encode takes it back`],
    [
      npy('paths', '/codebook', 'get', 'responses', '200'),
      `float32 [${codebook.size}, ${codebook.dimension}], C order`,
    ],
    [['components', 'schemas', 'TokenId', 'description'], `From 0 to ${codebook.size - 1}`],
    [
      ['components', 'schemas', 'Sequences', 'description'],
      prefixes
        ? `1 to ${length} tokens each; rows of a batch may differ in length.`
        : `Exactly ${length} tokens each: the model draws whole sequences only.`,
    ],
  ]
}
