import { readFileSync } from 'node:fs'
import { Ajv, type ErrorObject } from 'ajv'
import type { FastifySchema, FastifySchemaCompiler, RouteShorthandOptions } from 'fastify'
import { parse } from 'yaml'
import type { operations } from './openapi.d.ts'
import { Problem } from './problem.ts'

export type OperationId = keyof operations

interface Operation {
  operationId: OperationId
  security?: Record<string, string[]>[]
  parameters?: { name: string; in: string; schema: object }[]
  requestBody?: { content: Record<string, { schema?: { $ref: string } }> }
}

/** `openapi.yaml`, the single source of the requests and answers of this service. */
export interface Contract {
  /** The text of the file. */
  text: string
  /** The parsed file. */
  document: {
    openapi: string
    info: { title: string; version: string }
    security: Record<string, string[]>[]
    paths: Record<string, Record<string, Operation>>
  }
}

/** An operation as a Fastify route without its handler. */
export interface ContractRoute {
  id: OperationId
  method: string
  url: string
  schema: FastifySchema
}

export function readContract(): Contract {
  const text = readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8')
  return { text, document: parse(text) }
}

/** All operations, with the schemas of their queries and bodies. Media types without a schema are binary. */
export function operationsOf({ document }: Contract): ContractRoute[] {
  return Object.entries(document.paths).flatMap(([url, methods]) =>
    Object.entries(methods).map(([method, { operationId: id, parameters = [], requestBody }]) => {
      const query = Object.fromEntries(parameters.filter((p) => p.in === 'query').map((p) => [p.name, p.schema]))
      const content = Object.entries(requestBody?.content ?? {}).filter(([, { schema }]) => schema !== undefined)
      const schema = {
        // A misspelt parameter must not be ignored if the right one would change the answer. Paths without parameters
        // ignore anything that probes and scrapers add.
        querystring: {
          type: 'object',
          properties: query,
          ...(parameters.length > 0 && { additionalProperties: false }),
        },
        ...(content.length > 0 && { body: { content: Object.fromEntries(content) } }),
      }
      return { id, method: method.toUpperCase(), url, schema }
    }),
  )
}

/** The methods that a path supports, HEAD with every GET; empty if there is no such path. */
export function methodsOf({ document }: Contract, path: string): string[] {
  return Object.keys(document.paths[path] ?? {}).flatMap((method) =>
    method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()],
  )
}

/** The media types that an operation accepts, and whether it needs an API key. */
export function rulesOf({ document }: Contract, id: OperationId): { takes: string[]; guarded: boolean } {
  const operation = Object.values(document.paths)
    .flatMap((methods) => Object.values(methods))
    .find(({ operationId }) => operationId === id)
  const { security = document.security, requestBody } = operation ?? {}
  return { takes: Object.keys(requestBody?.content ?? {}), guarded: security.length > 0 }
}

/** Compiles the contract's schemas, which refer to one another. */
export function validatorCompiler({ document }: Contract): FastifySchemaCompiler<object> {
  // Coercion would turn null into 0 and "1" into 1 in a body. Only queries, where everything is text, need it.
  const strict = { coerceTypes: false, removeAdditional: false, useDefaults: false }
  // The whole document is added for its references; Ajv must not take its top-level keys for schema keywords.
  const bodies = new Ajv({ ...strict, keywords: Object.keys(document) })
  // With strictNumbers no bound would apply to infinity, which 1e400 is coerced to.
  const queries = new Ajv({
    coerceTypes: true,
    removeAdditional: false,
    useDefaults: true,
    strictNumbers: false,
    verbose: true,
  })
  bodies.addSchema(document, 'openapi.yaml')
  return ({ schema, httpPart }) => {
    if (httpPart === 'querystring') return queries.compile(schema)
    return bodies.compile('$ref' in schema ? { $ref: `openapi.yaml${schema.$ref}` } : schema)
  }
}

/** Describes what a schema found wrong. The deepest error is the one about what the client meant. */
export const describeSchemaErrors: NonNullable<RouteShorthandOptions['schemaErrorFormatter']> = (errors, part) => {
  const found = (errors as ErrorObject[]).reduce((a, b) => (depth(b) > depth(a) ? b : a))
  const steps = found.instancePath.split('/').slice(1)
  const place = steps.map((step) => (/^\d+$/.test(step) ? `[${step}]` : `.${step}`)).join('')
  if (part === 'querystring' && found.keyword === 'additionalProperties') return unknownParameter(found)
  const [item, position] = steps.filter((step) => /^\d+$/.test(step)).map(Number)
  return new Problem('malformed', `${part === 'querystring' ? 'query' : part}${place} ${faultOf(found)}`, {
    ...(item !== undefined && { item }),
    ...(position !== undefined && { position }),
  })
}

/** What is wrong, where the validator's own words are not plain English. */
function faultOf({ keyword, params, message = 'is not valid' }: ErrorObject): string {
  switch (keyword) {
    case 'type':
      return `must be ${/^[aeiou]/.test(params.type) ? 'an' : 'a'} ${params.type}`
    case 'enum':
      return `must be one of ${params.allowedValues.join(', ')}`
    case 'minimum':
      return `must be at least ${params.limit}`
    case 'maximum':
      return `must be at most ${params.limit}`
    case 'minItems':
    case 'minLength':
      return 'must not be empty'
    case 'additionalProperties':
      return `must not have the property ${JSON.stringify(params.additionalProperty)}`
    default:
      return message
  }
}

/** Names the unknown parameter and the one that was probably meant. */
function unknownParameter({ params, parentSchema }: ErrorObject): Problem {
  const name = String(params.additionalProperty)
  const known = Object.keys(parentSchema?.properties ?? {})
  const meant = known.find((other) => distance(name.toLowerCase(), other) <= 2)
  const hint = meant === undefined ? `this path takes ${known.join(', ')}` : `did you mean ${meant}?`
  return new Problem('malformed', `there is no query parameter ${JSON.stringify(name.slice(0, 64))}; ${hint}`)
}

/** Edit distance of two words; 4 if their lengths differ by more than 3. */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 3) return 4
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] as number) + Number(a[i - 1] !== b[j - 1])
      next.push(Math.min(replaced, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[b.length] as number
}

function depth(error: ErrorObject): number {
  return error.keyword === 'anyOf' ? -1 : error.instancePath.split('/').length
}
