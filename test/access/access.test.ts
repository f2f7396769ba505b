import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Config } from '../../src/config.ts'
import type { components } from '../../src/http/openapi.d.ts'
import { conforming, json, problem } from '../helpers/contract.ts'
import { type Backend, fixture, formOf, listen, photos, type Service, startBackend, until } from '../helpers/service.ts'

const unauthorized = { status: 401, kind: 'unauthorized', detail: /x-api-key/ }
let backend: Backend
let folder: string

before(async () => {
  backend = await startBackend()
  folder = await mkdtemp(join(tmpdir(), 'nativetok-'))
})
after(async () => {
  await backend.inference.close()
  await rm(folder, { recursive: true })
})

async function serving(settings: Partial<Config>, work: (service: Service) => Promise<void>): Promise<void> {
  const service = await listen(backend, settings)
  try {
    await work(service)
  } finally {
    await service.http.close()
  }
}

const get = (service: Service, path: string, headers: Record<string, string> = {}) =>
  fetch(`${service.base}${path}`, { headers, redirect: 'manual' })
const statusWith = async (service: Service, key: string) => {
  const answer = await get(service, '/info', { 'x-api-key': key })
  await conforming('GET', '/info', answer)
  return answer.status
}

test("keys come from a file, in which each may have a holder's name that the log shows", async () => {
  const file = join(folder, 'keys')
  await writeFile(file, '# who may\n\ntrainer first-key\r\n  nameless-key\ntrainer   second-key\n')
  await serving({ apiKeysFile: file }, async (service) => {
    for (const key of ['first-key', 'second-key', 'nameless-key']) assert.equal(await statusWith(service, key), 200)
    const bearer = await get(service, '/info', { authorization: 'Bearer second-key', 'x-request-id': 'by-name' })
    assert.equal(bearer.status, 200)
    for (const wrong of ['trainer', '# who may', 'first-key2', 'trainer first-key', '']) {
      assert.equal(await statusWith(service, wrong), 401, wrong)
    }
    await problem(unauthorized, 'GET', '/info', get(service, '/info'))
  })
  assert.equal(backend.lines.find((line) => line.requestId === 'by-name')?.keyHolder, 'trainer')
})

test('with an invalid file of keys the service does not start, and the message shows no key', async () => {
  const file = join(folder, 'broken')
  const cases: [string, RegExp][] = [
    ['# nobody\n', /holds no API key/],
    ['good key-1\na b hunter2\n', /line 2 of/],
    ['good kéy-hunter2\n', /line 1 of/],
  ]
  for (const [text, message] of cases) {
    await writeFile(file, text)
    await assert.rejects(listen(backend, { apiKeysFile: file }), (error: Error) => {
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /hunter2/)
      return true
    })
  }
  await assert.rejects(listen(backend, { apiKeysFile: join(folder, 'none') }), /API keys cannot be read.*ENOENT/)
})

test('keys change while it serves, as a mounted Kubernetes secret does; a broken file changes none', async () => {
  // A mounted secret: keys -> ..data/keys, ..data -> one folder per version, and ..data is replaced by renaming.
  const mount = join(folder, 'secret')
  const file = join(mount, 'keys')
  await mkdir(mount)
  const publish = async (version: string, keys?: string) => {
    await mkdir(join(mount, version))
    if (keys !== undefined) await writeFile(join(mount, version, 'keys'), keys)
    await symlink(version, join(mount, '..new'))
    await rename(join(mount, '..new'), join(mount, '..data'))
  }
  await publish('v1', 'a old-key\n')
  await symlink('..data/keys', file)
  await serving({ apiKeysFile: file }, async (service) => {
    assert.deepEqual([await statusWith(service, 'old-key'), await statusWith(service, 'new-key')], [200, 401])
    await publish('v2', 'a old-key\na new-key\n')
    await until(async () => (await statusWith(service, 'new-key')) === 200)
    assert.equal(await statusWith(service, 'old-key'), 200)
    await publish('v3', 'a new-key\n')
    await until(async () => (await statusWith(service, 'old-key')) === 401)

    const complaints = () => backend.lines.filter((line) => /the previous API keys stay valid/.test(`${line.msg}`))
    for (const [index, [version, broken]] of [['v4', '\n'] as const, ['v5', undefined] as const].entries()) {
      await publish(version, broken)
      await until(() => complaints().length > index)
      assert.deepEqual([await statusWith(service, 'new-key'), await statusWith(service, 'old-key')], [200, 401])
    }
    await publish('v6', 'b newest-key\n')
    await until(async () => (await statusWith(service, 'newest-key')) === 200)
  })
})

test('health and metrics need a key if the setting says so', async () => {
  const apiKey = 'correct-horse'
  await serving({ apiKey, guard: ['metrics'] }, async (service) => {
    await problem(unauthorized, 'GET', '/metrics', get(service, '/metrics'))
    assert.equal((await get(service, '/metrics', { 'x-api-key': apiKey })).status, 200)
    for (const path of ['/health/live', '/health/ready']) assert.equal((await get(service, path)).status, 200)
  })
  await serving({ apiKey, guard: ['health', 'metrics'] }, async (service) => {
    for (const path of ['/metrics', '/health/live', '/health/ready']) {
      await problem(unauthorized, 'GET', path, get(service, path))
      assert.equal((await get(service, path, { authorization: `Bearer ${apiKey}` })).status, 200)
    }
    for (const path of ['/docs', '/openapi.yaml']) assert.equal((await get(service, path)).status, 200)
  })
})

const preflight = (service: Service, origin: string) =>
  fetch(`${service.base}/encode`, {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'x-api-key,content-type',
    },
  })

test('another origin may call only if it is listed', async () => {
  await serving({}, async (service) => {
    const origin = 'https://a.example'
    const asked = await preflight(service, origin)
    assert.deepEqual([asked.ok, asked.headers.get('access-control-allow-origin')], [false, null])
    assert.equal((await get(service, '/info', { origin })).headers.get('access-control-allow-origin'), null)
  })
  await serving({ corsOrigins: ['https://a.example'], apiKey: 'correct-horse' }, async (service) => {
    const asked = await preflight(service, 'https://a.example')
    assert.equal(asked.status, 204)
    assert.equal(asked.headers.get('access-control-allow-origin'), 'https://a.example')
    assert.match(asked.headers.get('access-control-allow-methods') ?? '', /POST/)
    assert.match(asked.headers.get('access-control-allow-headers') ?? '', /X-Api-Key/)
    assert.equal((await preflight(service, 'https://b.example')).headers.get('access-control-allow-origin'), null)

    // A page can read errors too.
    const refused = await get(service, '/info', { origin: 'https://a.example' })
    assert.equal(refused.status, 401)
    assert.equal(refused.headers.get('access-control-allow-origin'), 'https://a.example')
    assert.match(refused.headers.get('access-control-expose-headers') ?? '', /X-Request-Id/)
  })
  await serving({ corsOrigins: ['*'] }, async (service) => {
    const answer = await get(service, '/info', { origin: 'https://c.example' })
    assert.equal(answer.headers.get('access-control-allow-origin'), '*')
    assert.equal(answer.headers.get('access-control-allow-credentials'), null)
  })
})

test('every answer has the security headers, and the policy of a page lets it load only its own files', () =>
  serving({}, async (service) => {
    const answers = await Promise.all([
      get(service, '/info'),
      get(service, '/'),
      get(service, '/nowhere'),
      get(service, '/%zz'),
      get(service, '/docs'),
      get(service, '/docs/static/swagger-ui.css'),
      fetch(`${service.base}/encode`, { method: 'POST', body: formOf(photos.slice(0, 1)) }),
    ])
    for (const { headers, url } of answers) {
      assert.equal(headers.get('x-content-type-options'), 'nosniff', url)
      assert.equal(headers.get('referrer-policy'), 'no-referrer', url)
      assert.match(headers.get('content-security-policy') ?? '', /default-src 'none'.*frame-ancestors 'none'/, url)
    }
    const page = await get(service, '/docs')
    const policy = page.headers.get('content-security-policy') ?? ''
    assert.doesNotMatch(policy, /unsafe|https?:|\*/)
    // Inline scripts and styles, which the policy forbids.
    const html = await page.text()
    assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)/)
    assert.match(policy, /script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'/)
  }))

test('a key holder over the limit gets 429 until the minute is over; others and probes do not', async () => {
  const file = join(folder, 'clients')
  await writeFile(file, 'a key-a1\na key-a2\nb key-b\n')
  const expected = { status: 429, kind: 'rate-limited', detail: /more than 3 requests per minute/ }
  await serving({ apiKeysFile: file, rateLimit: 3 }, async (service) => {
    const info = (key: string) => get(service, '/info', { 'x-api-key': key })
    const first = await info('key-a1')
    assert.deepEqual([first.headers.get('ratelimit-limit'), first.headers.get('ratelimit-remaining')], ['3', '2'])
    // Both keys have the same holder, and all routes count together.
    for (const key of ['key-a2', 'key-a1']) assert.equal((await info(key)).status, 200)
    const refused = await info('key-a2')
    assert.ok(Number(refused.headers.get('retry-after')) >= 1)
    await problem(expected, 'GET', '/info', Promise.resolve(refused))
    const encode = (headers: Record<string, string>) =>
      fetch(`${service.base}/encode`, { method: 'POST', body: formOf(photos.slice(0, 1)), headers })
    await problem(expected, 'POST', '/encode', encode({ 'x-api-key': 'key-a1' }))
    await json('POST', '/encode', encode({ 'x-api-key': 'key-b' }))

    // Guesses count for the address.
    for (let i = 0; i < 3; i++) assert.equal((await info(`guess-${i}`)).status, 401)
    await problem(expected, 'GET', '/info', info('guess-3'))
    assert.equal((await info('key-b')).status, 200)
    for (let i = 0; i < 5; i++) {
      for (const path of ['/health/live', '/health/ready', '/metrics', '/docs']) {
        assert.equal((await get(service, path)).status, 200)
      }
    }
  })
})

test("a client's address comes from trusted proxies only", async () => {
  const info = (service: Service, from: string) => get(service, '/info', { 'x-forwarded-for': from })
  await serving({ rateLimit: 1, trustProxy: ['127.0.0.0/8'] }, async (service) => {
    assert.equal((await info(service, '192.0.2.1')).status, 200)
    assert.equal((await info(service, '192.0.2.1')).status, 429)
    assert.equal((await info(service, '192.0.2.2')).status, 200)
  })
  await serving({ rateLimit: 1 }, async (service) => {
    assert.equal((await info(service, '192.0.2.1')).status, 200)
    assert.equal((await info(service, '192.0.2.2')).status, 429)
  })
})

test('the log has no key and nothing of a body, at any level and wherever it was sent', async () => {
  const apiKey = 'correct-horse-battery'
  const secrets = [apiKey, 'wrong-horse-staple', 'SECRET-IN-A-BODY', 'SECRET-IN-AN-IMAGE']
  const image = Buffer.concat([photos[0] as Buffer, Buffer.from('SECRET-IN-AN-IMAGE')])
  const broken = Buffer.concat([fixture('formats/cat.png').subarray(0, 900), Buffer.from('SECRET-IN-AN-IMAGE')])
  secrets.push(broken.toString('base64').slice(0, 24), image.toString('base64').slice(0, 24))
  const from = backend.lines.length
  backend.log.level = 'trace'
  try {
    await serving({ apiKey }, async (service) => {
      const post = async (path: string, body: RequestInit['body'], type?: string) => {
        const headers = { authorization: `Bearer ${apiKey}`, ...(type !== undefined && { 'content-type': type }) }
        return (await fetch(`${service.base}${path}`, { method: 'POST', body, headers })).status
      }
      const bytes = (buffer: Buffer) => new Uint8Array(buffer)
      assert.equal(await post('/encode?length=8', bytes(image), 'image/webp'), 200)
      assert.equal(await post('/encode', bytes(broken), 'image/png'), 422)
      assert.equal(await post('/encode', formOf([Buffer.from(broken)])), 422)
      const images = JSON.stringify({ images: [broken.toString('base64')] })
      assert.equal(await post('/encode', images, 'application/json'), 422)
      assert.equal(await post('/encode', `SECRET-IN-A-BODY${images}`, 'application/json'), 400)
      assert.equal(await post('/decode', '{"tokens":["SECRET-IN-A-BODY"]}', 'application/json'), 400)
      assert.equal(await post('/decode', '{"SECRET-IN-A-BODY":[1]}', 'application/json'), 400)
      assert.equal(await post('/decode', 'SECRET-IN-A-BODY', 'application/x-npy'), 400)
      assert.equal(await post('/encode', 'SECRET-IN-A-BODY', 'multipart/form-data; boundary=x'), 400)
      assert.equal((await get(service, '/info', { 'x-api-key': 'wrong-horse-staple' })).status, 401)
      // A key in the query is not accepted and not logged either.
      assert.equal((await get(service, `/info?api_key=${apiKey}&${apiKey}`)).status, 401)
      assert.equal((await get(service, `/nowhere?x-api-key=${apiKey}`)).status, 404)
    })
  } finally {
    backend.log.level = 'info'
  }
  const lines = backend.lines.slice(from)
  assert.ok(lines.some(({ url }) => url === '/encode?length=8'))
  assert.ok(lines.some(({ kind }) => kind === 'undecodable-image'))
  for (const secret of secrets) {
    assert.deepEqual(
      lines.filter((line) => JSON.stringify(line).includes(secret)),
      [],
    )
  }
})

type Problem = components['schemas']['Problem']

test('an answer to a wrong key does not repeat it', () =>
  serving({ apiKey: 'correct-horse' }, async (service) => {
    const answer = await get(service, '/info', { 'x-api-key': 'wrong-horse' })
    const body = (await answer.json()) as Problem
    assert.doesNotMatch(JSON.stringify(body), /horse/)
  }))
