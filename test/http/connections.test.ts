import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { type Backend, listen, photos, type Service, startBackend, until } from '../helpers/service.ts'

let backend: Backend

before(async () => {
  backend = await startBackend()
})
after(() => backend.inference.close())

async function connect(service: Service, bytes = ''): Promise<Socket> {
  const socket = createConnection(Number(new URL(service.base).port), '127.0.0.1')
  await once(socket, 'connect')
  if (bytes !== '') socket.write(bytes)
  return socket
}

const photo = photos[0] as Buffer
const upload = (service: Service, connection: string) =>
  `POST /encode HTTP/1.1\r\nHost: ${new URL(service.base).host}\r\nConnection: ${connection}\r\nContent-Type: image/webp\r\nContent-Length: ${photo.length}\r\n\r\n`

/** Closes the service and returns how many seconds that took. */
async function closing(service: Service): Promise<number> {
  const start = performance.now()
  service.services.draining = true
  await service.http.close()
  return (performance.now() - start) / 1000
}

test('connections that have not sent a whole request do not delay shutdown', async () => {
  const service = await listen(backend)
  const held = [
    await connect(service),
    await connect(service, 'POST /enc'),
    await connect(service, 'GET /info HTTP/1.1\r\nHost: x\r\n'),
    await connect(service, 'GET /info HTTP/1.1\r\nHost: x\r\n\r\n'),
  ]
  await once(held[3] as Socket, 'data')
  const ended = held.map((socket) => once(socket.resume(), 'close'))
  assert.ok((await closing(service)) < 2)
  await Promise.all(ended)
})

test('an upload that stalls does not delay shutdown, and one that continues is answered', async () => {
  const service = await listen(backend)
  const stopped = await connect(service, `${upload(service, 'keep-alive')}abc`)
  stopped.on('error', () => {})
  const slow = await connect(service, upload(service, 'keep-alive'))
  const answer = text(slow)
  await until(() => backend.inference.imagesInFlight === 2)
  const closed = closing(service)
  const step = Math.ceil(photo.length / 8)
  for (let at = 0; at < photo.length; at += step) {
    await new Promise((resolve) => setTimeout(resolve, 900))
    slow.write(photo.subarray(at, at + step))
  }
  assert.match(await answer, /^HTTP\/1\.1 200 .*"tokens":/s)
  assert.ok((await closed) < 20)
})

test('pipelined requests that have arrived are all answered', async () => {
  const service = await listen(backend)
  const socket = await connect(service)
  const answers = text(socket)
  for (let i = 0; i < 3; i++) {
    socket.write(upload(service, 'keep-alive'))
    socket.write(photo)
  }
  await until(() => backend.inference.imagesInFlight === 3)
  await closing(service)
  const heard = await answers
  assert.equal([...heard.matchAll(/HTTP\/1\.1 200 /g)].length, 3)
  assert.deepEqual(
    [...heard.matchAll(/\r\nconnection: ([\w-]+)\r\n/gi)].map((match) => match[1]?.toLowerCase()),
    ['keep-alive', 'keep-alive', 'close'],
  )
})

test('a client that does not read its answer does not delay shutdown', async () => {
  const service = await listen(backend, { requestTimeout: 1 })
  const socket = await connect(service)
  socket.pause()
  // Far more answers than the connection's buffers hold.
  for (let i = 0; i < 300; i++) socket.write('GET /codebook HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => (service.http.server as unknown as { _connections: number })._connections === 1)
  await new Promise((resolve) => setTimeout(resolve, 500))
  assert.ok((await closing(service)) < 15)
  socket.destroy()
})

test('a request may take the longest time that can be set', async (t) => {
  const service = await listen(backend, { requestTimeout: 3600 })
  t.after(() => service.http.close())
  const { headersTimeout, requestTimeout } = service.http.server
  assert.equal(headersTimeout, 3_600_000)
  assert.ok(requestTimeout > headersTimeout)
  const answer = await fetch(`${service.base}/encode`, {
    method: 'POST',
    headers: { 'content-type': 'image/webp' },
    body: new Uint8Array(photo),
  })
  assert.equal(answer.status, 200)
})
