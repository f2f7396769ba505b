import { request } from 'node:http'
import { buffer } from 'node:stream/consumers'
import fc from 'fast-check'
import { readContract } from '../src/http/contract.ts'
import { conforming, resolve, validatorOf } from '../tools/contract.ts'
import { Service } from '../tools/service.ts'
import { smallFiles } from './photos.ts'
import type { Finding, Scope } from './promise.ts'

interface Schema {
  $ref?: string
  type?: string
  enum?: unknown[]
  anyOf?: Schema[]
  properties?: Record<string, Schema>
  required?: string[]
  items?: Schema
  minimum?: number
  maximum?: number
  minItems?: number
  contentEncoding?: string
}

interface Operation {
  method: string
  path: string
  queries: { name: string; schema: Schema }[]
  /** Schemas by media type; none for binary ones. */
  bodies: Record<string, { schema?: Schema }>
}

interface Generated {
  operation: Operation
  query: [name: string, value: string][]
  headers: Record<string, string | string[]>
  body: string | Uint8Array
}

const { document } = readContract()
const operations: Operation[] = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { parameters = [], requestBody }]) => ({
    method: method.toUpperCase(),
    path,
    queries: parameters.filter((parameter) => parameter.in === 'query'),
    bodies: (requestBody?.content ?? {}) as Operation['bodies'],
  })),
)
const working = operations.filter(({ method }) => method === 'POST')

/** Valid and invalid requests generated from `openapi.yaml`: every answer must conform to it. */
export async function* contract({ long, seed }: Scope): AsyncGenerator<Finding> {
  const service = await Service.start()
  const files = (await smallFiles()).map((file) => file.toString('base64'))
  const runs = long ? 5000 : 400
  try {
    yield await holds('bodies of the schema are taken, unless what they say cannot be; others are 400', runs, {
      requests: jsonRequests(files),
      right: ({ operation, body }, status) => {
        const { schema = {} } = operation.bodies['application/json'] ?? {}
        const valid = validatorOf(schema)(JSON.parse(body as string))
        return valid
          ? [200, 400, 422].includes(status) && (status !== 400 || operation.path === '/encode')
          : status === 400
      },
    })
    yield await holds('queries of the schema are taken, unless the model has none such; others are 400', runs, {
      requests: queryRequests(),
      right: ({ operation, query }, status) => {
        const known = query.filter(([name]) => operation.queries.some((one) => one.name === name))
        const twice = new Set(known.map(([name]) => name)).size < known.length
        const wrong = twice || known.some(([name, value]) => wrongValues[name]?.includes(value))
        return wrong ? status === 400 : [200, 406, 409, 422].includes(status)
      },
    })
    yield await holds('any media types, Accept and headers, once or more, get an answer of the contract', runs, {
      requests: anyRequests(),
      right: (_, status) => status < 500,
    })
  } finally {
    await service.kill()
  }

  async function holds(
    promise: string,
    numRuns: number,
    { requests, right }: { requests: fc.Arbitrary<Generated>; right: (made: Generated, status: number) => boolean },
  ): Promise<Finding> {
    const statuses = new Map<number, number>()
    const property = fc.asyncProperty(requests, async (made) => {
      const answer = await send(service, made)
      await conforming(made.operation.method, made.operation.path, answer)
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
      if (!right(made, answer.status)) throw new Error(`${answer.status} is wrong`)
    })
    const { failed, counterexample, errorInstance } = await fc.check(property, { numRuns, seed })
    const counts = [...statuses].sort(([a], [b]) => a - b).map(([status, n]) => `${n} x ${status}`)
    const why = failed ? `; ${(errorInstance as Error).message} on ${described(counterexample?.[0])}` : ''
    return { promise, figure: `${numRuns} requests: ${counts.join(', ')}${why}`, kept: !failed }
  }
}

function described(made: Generated | undefined): string {
  const { operation, ...rest } = made ?? {}
  return `${operation?.method} ${operation?.path} ${fc.stringify(rest).slice(0, 400)}`
}

async function send(service: Service, { operation, query, headers, body }: Generated): Promise<Response> {
  const { method, path } = operation
  const search = query.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join('&')
  const sent = request(`${service.url}${path}?${search}`, { method, headers })
  const answered = new Promise<Response>((done, failed) => {
    sent.on('error', failed)
    sent.on('response', async (answer) => {
      const { statusCode = 0, rawHeaders } = answer
      const pairs = rawHeaders.flatMap((name, i) =>
        i % 2 === 0 ? [[name, rawHeaders[i + 1] ?? ''] as [string, string]] : [],
      )
      buffer(answer).then(
        (bytes) => done(new Response(Buffer.from(bytes), { status: statusCode, headers: pairs })),
        failed,
      )
    })
  })
  sent.end(method === 'GET' ? undefined : body)
  return answered
}

/** Values of a schema. Base64 strings are often real files from `files`. */
function valuesOf(schema: Schema, files: string[]): fc.Arbitrary<unknown> {
  const { type, anyOf, minimum = 0, maximum = 4200, minItems = 0, contentEncoding, ...rest } = resolve(schema)
  if (anyOf) return fc.oneof(...anyOf.map((one) => valuesOf(one, files)))
  if (rest.enum) return fc.constantFrom(...rest.enum)
  if (type === 'integer') return fc.integer({ min: minimum, max: maximum })
  if (type === 'string')
    return contentEncoding === 'base64' ? fc.oneof(fc.constantFrom(...files), fc.base64String()) : fc.string()
  if (type === 'array') return fc.array(valuesOf(rest.items ?? {}, files), { minLength: minItems, maxLength: 6 })
  if (type === 'object') {
    const fields = Object.entries(rest.properties ?? {}).map(([name, field]) => [name, valuesOf(field, files)])
    return fc.record(Object.fromEntries(fields) as Record<string, fc.Arbitrary<unknown>>, {
      requiredKeys: rest.required ?? [],
    })
  }
  return fc.jsonValue()
}

/** JSON bodies: as the schema says, with an extra field or a wrong type, and arbitrary ones. */
function jsonRequests(files: string[]): fc.Arbitrary<Generated> {
  return fc.constantFrom(...working).chain((operation) => {
    const schema = resolve(operation.bodies['application/json']?.schema ?? {})
    const good = valuesOf(schema, files)
    const fields = Object.keys(schema.properties ?? {})
    const body = fc.oneof(
      { weight: 3, arbitrary: good },
      fc
        .tuple(good, fc.string(), fc.jsonValue())
        .map(([value, name, more]) => ({ ...(value as object), [name]: more })),
      fc.tuple(fc.constantFrom(...fields), fc.jsonValue()).map(([name, value]) => ({ [name]: value })),
      fc.jsonValue(),
    )
    return body.map((value) => ({
      operation,
      query: [],
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(value),
    }))
  })
}

const notIntegers = ['', 'all', '-1', '0', '1.5', 'NaN', 'null', '[]', '1e400', '9'.repeat(400), '\0', '１']
const wrongValues: Record<string, string[]> = {
  length: [...notIntegers, '129'],
  quality: [...notIntegers, '101'],
  format: ['', 'gif', 'PNG', 'png,webp', '__proto__'],
  model: [''],
}

/** Queries: valid values, invalid ones, repeated and unknown parameters. */
function queryRequests(): fc.Arbitrary<Generated> {
  return fc.constantFrom(...working).chain((operation) => {
    const known = operation.queries.map(({ name, schema }) => {
      const { maximum = 128 } = schema
      const right = valuesOf({ ...schema, maximum }, [])
        .map(String)
        .filter((value) => value !== '')
      return fc.tuple(fc.constant(name), fc.oneof(right, fc.constantFrom(...(wrongValues[name] as string[]))))
    })
    const names = operation.queries.map(({ name }) => name)
    const unknown = fc.tuple(
      fc.string().filter((name) => !names.includes(name)),
      fc.string(),
    )
    const query = fc.array(fc.oneof(...known, unknown), { maxLength: 4 })
    const [body, accept] = operation.path === '/decode' ? ['{"tokens":[1,2]}', '*/*'] : [pixel, 'application/json']
    return query.map((query) => ({ operation, query, headers: { 'content-type': 'application/json', accept }, body }))
  })
}

const pixel = JSON.stringify({
  images: ['iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC'],
})

/** Any operation with any body as any media type, with headers once or repeated. */
function anyRequests(): fc.Arbitrary<Generated> {
  const types = [...new Set(working.flatMap(({ bodies }) => Object.keys(bodies))), 'text/plain', 'image/svg+xml']
  const text = fc.string({ unit: 'grapheme-ascii' }).map((value) => value.trim())
  const type = fc
    .tuple(
      fc.constantFrom(...types),
      fc.constantFrom('', ';', '; charset=utf-8', ' ; a="b', '; boundary=x', ', text/html'),
      fc.boolean(),
    )
    .map(([name, parameters, upper]) => `${upper ? name.toUpperCase() : name}${parameters}`)
  const accept = fc
    .array(fc.oneof(fc.constantFrom(...types, '*/*', 'image/*', 'text/*'), text), { maxLength: 4 })
    .chain((ranges) =>
      fc.constantFrom(ranges.join(', '), ranges.map((range, i) => `${range};q=0.${i}`).join(', '), ranges),
    )
  const headers = fc.record(
    {
      'content-type': fc.oneof({ weight: 5, arbitrary: type }, text),
      accept,
      'x-request-id': fc.oneof(text, fc.array(text, { minLength: 1, maxLength: 3 })),
      'content-encoding': fc.constantFrom('identity', 'gzip', 'br', ''),
      'if-none-match': text,
      range: fc.constantFrom('bytes=0-10', 'bytes=9-1', 'bytes=-'),
      cookie: text,
      'x-api-key': fc.oneof(text, fc.array(text, { minLength: 1, maxLength: 3 })),
      'x-forwarded-for': text,
    },
    { requiredKeys: [] },
  )
  const body = fc.oneof(
    fc.constant('{"tokens":[1]}'),
    fc.constant(pixel),
    fc.json(),
    fc.string(),
    fc.uint8Array({ maxLength: 300 }),
  )
  return fc.record({
    operation: fc.constantFrom(...operations, ...working, ...working),
    query: fc.constant([]),
    headers,
    body,
  })
}
