import assert from 'node:assert/strict'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import { readContract } from '../src/http/contract.ts'

interface Referable {
  $ref?: string
}
interface Header extends Referable {
  required?: boolean
  schema: { type?: string }
}
interface Response extends Referable {
  headers?: Record<string, Header>
  content?: Record<string, { schema?: object }>
}

const { document } = readContract()
const ajv = new Ajv2020({ strict: false, coerceTypes: false })
ajv.addSchema(document, 'openapi.yaml')

/**
 * Checks an answer against the contract: its status, media type, required headers and body.
 *
 * @returns the body: parsed if it is JSON, else its bytes
 */
export async function conforming(method: string, path: string, answer: globalThis.Response) {
  const bytes = Buffer.from(await answer.arrayBuffer())
  const where = `${method} ${path} ${answer.status}`
  const operation = document.paths[path]?.[method.toLowerCase()] as unknown as
    | { responses: Record<string, Response> }
    | undefined
  const declared = operation?.responses[answer.status]
  assert.ok(declared, `${where} is not in the contract: ${bytes.toString('utf8', 0, 300)}`)
  const response = resolve(declared)
  for (const [name, reference] of Object.entries(response.headers ?? {})) {
    const header = resolve(reference)
    const value = answer.headers.get(name)
    assert.ok(value !== null || !header.required, `${where} lacks ${name}`)
    if (value !== null)
      check(header.schema, header.schema.type === 'integer' ? Number(value) : value, `${where} ${name}`)
  }
  if (response.content === undefined) {
    assert.equal(bytes.length, 0, `${where} has a body`)
    return bytes
  }
  const type = answer.headers.get('content-type')?.split(';')[0] ?? ''
  const media = response.content[type]
  assert.ok(media, `${where} is ${type}, which the contract does not have`)
  const body: unknown = type.endsWith('json') ? JSON.parse(bytes.toString()) : bytes
  if (media.schema !== undefined) check(media.schema, Buffer.isBuffer(body) ? body.toString() : body, where)
  return body
}

const validators = new Map<object, ValidateFunction>()

/** A function that tells whether a value conforms to a schema of the contract. */
export function validatorOf(schema: object): ValidateFunction {
  const validate = validators.get(schema) ?? ajv.compile(absolute(schema))
  validators.set(schema, validate)
  return validate
}

function check(schema: object, value: unknown, where: string): void {
  const validate = validatorOf(schema)
  assert.ok(validate(value), `${where}: ${ajv.errorsText(validate.errors)}`)
}

/** Makes references inside the document work from outside of it. */
function absolute(schema: object): object {
  return JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"openapi.yaml#/'))
}

/** What a reference inside the document refers to; anything else as it is. */
export function resolve<T extends Referable>(value: T): T {
  if (value.$ref === undefined) return value
  const steps = value.$ref.split('/').slice(1)
  return steps.reduce<unknown>((at, step) => (at as Record<string, unknown>)[step], document) as T
}
