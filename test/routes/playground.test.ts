import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import Fastify from 'fastify'
import { Playground } from '../../src/routes/playground.ts'
import { bytes, conforming } from '../helpers/contract.ts'
import { type Backend, listen, type Service, startBackend } from '../helpers/service.ts'

const root = new URL('../../', import.meta.url)
const dist = new URL('web/dist/', root)
let backend: Backend
let service: Service

before(async () => {
  await promisify(execFile)(process.execPath, ['web/build.ts'], { cwd: root })
  backend = await startBackend()
  service = await listen(backend)
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

const get = (path: string, headers = {}) => fetch(`${service.base}${path}`, { headers })

test('the home page is the playground and needs nothing from other hosts', async () => {
  const home = await get('/')
  const policy = home.headers.get('content-security-policy') ?? ''
  for (const rule of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"]) {
    assert.ok(policy.includes(rule), rule)
  }
  assert.doesNotMatch(policy, /unsafe|https?:/)
  const page = String(await conforming('GET', '/', home))
  assert.match(page, /<h1/)
  const sources = [...page.matchAll(/(?:src|href)="([^"#]+)"/g)].map((match) => match[1] as string)
  const own = sources.filter((source) => !source.startsWith('https://arxiv.org/'))
  assert.ok(own.length > 5)
  for (const source of own) {
    const file = await get(`/${source}`)
    assert.equal(file.status, 200, source)
    assert.equal(file.headers.get('x-content-type-options'), 'nosniff')
  }
})

test('scripts and style sheets are under 150 kB in total, and are cached permanently', async () => {
  const names = readdirSync(dist).filter((name) => /\.(js|css)$/.test(name))
  const total = names.reduce((sum, name) => sum + statSync(new URL(name, dist)).size, 0)
  assert.ok(names.length >= 4 && total < 150_000, `${total} bytes`)
  for (const name of names.filter((name) => /^(playground|style)-/.test(name))) {
    const file = await get(`/playground/${name}`)
    assert.equal(file.headers.get('cache-control'), 'public, max-age=31536000, immutable')
    assert.match(file.headers.get('content-type') ?? '', name.endsWith('.js') ? /javascript/ : /text\/css/)
  }
})

test('the page and photos are revalidated, and not sent again', async () => {
  for (const path of ['/', '/playground/photos/cat.jpg', '/playground/favicon.svg']) {
    const first = await get(path)
    assert.equal(first.headers.get('cache-control'), 'no-cache', path)
    const etag = first.headers.get('etag') ?? ''
    // Without an explicit Cache-Control, fetch requests a full answer.
    const again = { 'if-none-match': etag, 'cache-control': 'max-age=0' }
    assert.equal((await get(path, again)).status, 304, path)
  }
})

test('only built files are served', async () => {
  for (const path of [
    '/playground/',
    '/playground/../package.json',
    '/playground/%2e%2e/build.ts',
    '/playground/main.ts',
  ]) {
    assert.equal((await get(path)).status, 404, path)
  }
})

test('every gallery photo is listed in the sources with its terms', () => {
  const sources = readFileSync(new URL('test/fixtures/photos/SOURCES.md', root), 'utf8').split('\n')
  const gallery: { file: string; credit: string; terms: string }[] = JSON.parse(
    readFileSync(new URL('web/gallery.json', root), 'utf8'),
  )
  for (const { file, credit, terms } of gallery) {
    const line = sources.find((line) => line.includes(`\`${file}\``)) ?? assert.fail(`${file} is not in SOURCES.md`)
    assert.ok(line.replaceAll('"', '”').includes(credit.replaceAll('“', '”')), `${file}: ${credit}`)
    assert.ok(line.includes(terms), `${file}: ${terms}`)
  }
})

test('the API documentation has the same header', async () => {
  const page = (await bytes('GET', '/docs', get('/docs'))).toString()
  for (const name of ['theme/header.css', 'theme/docs.js']) {
    const path = new RegExp(`"([^"]*${name})"`).exec(page)?.[1] ?? assert.fail(`${name} is not on the page`)
    const file = await fetch(new URL(path, `${service.base}/docs`))
    assert.equal(file.status, 200, path)
    assert.match(await file.text(), /site-header/)
  }
})

test('a service without the built files starts, and shows how to build them', async () => {
  const http = Fastify()
  const playground = new Playground(new URL('file:///nowhere/'))
  await playground.serve(http)
  http.get('/', playground.home)
  const { statusCode, headers, body } = await http.inject('/')
  assert.equal(statusCode, 200)
  assert.match(String(headers['content-type']), /text\/html/)
  assert.match(body, /npm run build/)
  assert.match(body, /href="docs"/)
  assert.deepEqual(playground.docsTheme(), { title: 'NativeTok API' })
})
