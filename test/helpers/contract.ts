import assert from 'node:assert/strict'
import { conforming } from '../../tools/contract.ts'

export { conforming }

/** Reads an answer that must have status 200 and JSON. */
export async function json<T>(method: string, path: string, answer: Promise<globalThis.Response>): Promise<T> {
  const settled = await answer
  const body = await conforming(method, path, settled)
  assert.equal(settled.status, 200, JSON.stringify(body))
  return body as T
}

/** Reads the bytes of an answer that must have status 200. */
export async function bytes(method: string, path: string, answer: Promise<globalThis.Response>): Promise<Buffer> {
  const settled = await answer
  const body = await conforming(method, path, settled)
  assert.equal(settled.status, 200, JSON.stringify(body))
  assert.ok(Buffer.isBuffer(body))
  return body
}

export interface ProblemBody {
  type: string
  status: number
  detail: string
  item?: number
  position?: number
}

/** Checks that an answer is this problem. `kind` is the end of its `type`. */
export async function problem(
  expected: { status: number; kind: string; detail: RegExp; item?: number; position?: number },
  method: string,
  path: string,
  answer: Promise<globalThis.Response>,
): Promise<ProblemBody> {
  const settled = await answer
  const body = (await conforming(method, path, settled)) as ProblemBody
  assert.equal(settled.status, expected.status, body.detail)
  assert.equal(body.status, expected.status)
  assert.equal(body.type, `urn:nativetok:problem:${expected.kind}`)
  assert.match(body.detail, expected.detail)
  assert.equal(body.item, expected.item, body.detail)
  assert.equal(body.position, expected.position, body.detail)
  return body
}
