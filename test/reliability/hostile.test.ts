import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, before, test } from 'node:test'
import { impostors } from '../../reliability/hostile.ts'
import { conforming } from '../helpers/contract.ts'
import { type Backend, formOf, listen, type Service, startBackend } from '../helpers/service.ts'

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

test('other kinds of files named as images are refused, and no address in them is requested', async () => {
  const asked: unknown[] = []
  const server = createServer((request, response) => {
    asked.push(request.url)
    response.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    for (const { name, bytes } of impostors(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)) {
      for (const init of [{ body: formOf([bytes]) }, { body: bytes, headers: { 'content-type': 'image/jpeg' } }]) {
        const answer = await fetch(`${service.base}/encode`, { method: 'POST', ...init })
        await conforming('POST', '/encode', answer)
        assert.ok([415, 422].includes(answer.status), `${name}: ${answer.status}`)
      }
    }
    assert.deepEqual(asked, [])
  } finally {
    server.close()
  }
})
