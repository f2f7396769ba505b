import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import openapiTS, { astToString } from 'openapi-typescript'
import { problem } from '../helpers/contract.ts'
import { type Backend, formOf, listen, photos, type Service, startBackend } from '../helpers/service.ts'

let backend: Backend
let service: Service

before(async () => {
  backend = await startBackend()
  service = await listen(backend)
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

test('infinite numbers in a query are refused', async () => {
  const headers = { 'content-type': 'application/json' }
  for (const number of ['1e400', '-1e400', '9'.repeat(400), '1e308', 'Infinity', 'NaN']) {
    const decoded = fetch(`${service.base}/decode?format=webp&quality=${number}`, {
      method: 'POST',
      body: '{"tokens":[1]}',
      headers,
    })
    await problem({ status: 400, kind: 'malformed', detail: /quality/ }, 'POST', '/decode', decoded)
    const encoded = fetch(`${service.base}/encode?length=${number}`, {
      method: 'POST',
      body: formOf(photos.slice(0, 1)),
    })
    await problem({ status: 400, kind: 'malformed', detail: /length/ }, 'POST', '/encode', encoded)
  }
})

test('the generated types match the contract', async () => {
  const generated = astToString(await openapiTS(new URL('../../openapi.yaml', import.meta.url)))
  const committed = readFileSync(new URL('../../src/http/openapi.d.ts', import.meta.url), 'utf8')
  assert.ok(committed.endsWith(generated), 'run `npm run generate`')
})
