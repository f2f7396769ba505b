import { readContract } from '../src/http/contract.ts'
import { Service } from '../tools/service.ts'
import { smallPhotos } from './photos.ts'
import type { Finding, Scope } from './promise.ts'
import { type Exchange, type ExchangeOptions, exchange, type RawAnswer } from './raw.ts'

const REQUEST_TIMEOUT = 2
/** How often Node looks for requests that take too long. */
const CHECK_SECONDS = 1

/** What to send, and the right status for it; none if the connection must be closed without one. */
interface Case {
  name: string
  send: string | (string | Buffer)[]
  status: number | undefined
  options?: ExchangeOptions
  /** What else must be true of the answer. */
  holds?: (seen: Exchange) => boolean
}

/** HTTP/1.1 as RFC 9112 defines it and as nobody should write it, over plain sockets. */
export async function* http(_: Scope): AsyncGenerator<Finding> {
  const service = await Service.start({ flags: ['--request-timeout', String(REQUEST_TIMEOUT)] })
  try {
    const [photo = Buffer.alloc(0)] = await smallPhotos()
    const engines = (await service.engines()).sort().join()
    const slow = slowClients(service)
    const beside = await whileSlow(service, photo)
    const groups: [promise: string, cases: Case[]][] = [
      ['framing that two readers could read differently is refused', ambiguous],
      ['bodies come with a length, in chunks, in pieces, or not at all', bodies(photo)],
      ['what a path does not take is 405 with Allow, what is no method 400', methods()],
      ['targets in every form lead where they should, and nowhere else', targets],
      ['headers and targets that are too large are 431', oversize],
      ['older and newer versions of HTTP', versions],
      ['a client that closes its half has gone', halves],
    ]
    for (const [promise, cases] of groups) yield await tried(service, promise, cases)
    yield await pipelined(service, photo)
    yield beside
    yield* slow
    const alive = !service.ended && (await service.engines()).sort().join() === engines
    const answer = await fetch(`${service.url}/encode`, {
      method: 'POST',
      body: photo,
      headers: { 'content-type': 'image/webp' },
    })
    yield {
      promise: 'after all of these, the same processes answer a good request',
      figure: `${answer.status}; ${alive ? 'the same processes' : 'a process was replaced'}`,
      kept: alive && answer.status === 200,
    }
  } finally {
    await service.kill()
  }
}

const json = '{"tokens":[3071,12,880]}'
const post = (headers: string, body = '', path = '/decode') =>
  `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}\r\n${body}`
const get = (target: string, more = '') => `GET ${target} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
const inChunks = (size: number) => {
  const pieces = json.match(new RegExp(`.{1,${size}}`, 'g')) ?? []
  return `${pieces.map((piece) => `${piece.length.toString(16)}\r\n${piece}\r\n`).join('')}0\r\n\r\n`
}
const closed = ({ closed }: Exchange) => closed

const ambiguous: Case[] = [
  {
    name: 'two lengths',
    send: post(`Content-Length: ${json.length}\r\nContent-Length: 5\r\n`, json),
    status: 400,
    options: { until: 2 },
    holds: closed,
  },
  {
    name: 'a length twice',
    send: post(`Content-Length: ${json.length}\r\nContent-Length: ${json.length}\r\n`, json),
    status: 400,
  },
  { name: 'lengths in a list', send: post(`Content-Length: ${json.length}, ${json.length}\r\n`, json), status: 400 },
  {
    name: 'a length and chunks',
    send: post(`Content-Length: ${json.length}\r\nTransfer-Encoding: chunked\r\n`, inChunks(9)),
    status: 400,
  },
  { name: 'a coding before chunked', send: post('Transfer-Encoding: gzip, chunked\r\n', inChunks(9)), status: 415 },
  { name: 'a coding instead of chunked', send: post('Transfer-Encoding: gzip\r\n', json), status: 400 },
  { name: 'chunked before a coding', send: post('Transfer-Encoding: chunked, identity\r\n', inChunks(9)), status: 400 },
  ...['-1', '+5', '1e3', '0x10', '5 5', '99999999999999999999'].map((length) => ({
    name: `length ${length}`,
    send: post(`Content-Length: ${length}\r\n`, json),
    status: 400,
  })),
  ...['zz', '-1', '0x5', 'fffffffffffffffff'].map((size) => ({
    name: `chunk of ${size}`,
    send: post('Transfer-Encoding: chunked\r\n', `${size}\r\n${json}\r\n0\r\n\r\n`),
    status: 400,
  })),
  { name: 'a space before the colon', send: 'GET /info HTTP/1.1\r\nHost : x\r\n\r\n', status: 400 },
  { name: 'a folded header', send: get('/info', 'A: b\r\n c\r\n'), status: 400 },
  { name: 'a NUL in a header', send: get('/info', 'A: \0\r\n'), status: 400 },
  { name: 'lines that end in LF alone', send: 'GET /info HTTP/1.1\nHost: x\n\n', status: 400 },
  { name: 'two hosts', send: 'GET /info HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', status: 400 },
  { name: 'no host', send: 'GET /info HTTP/1.1\r\n\r\n', status: 400 },
  { name: 'no HTTP', send: '\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03', status: 400 },
]

function bodies(photo: Buffer): Case[] {
  const image = (headers: string) => `POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/webp\r\n${headers}\r\n`
  const length = `Content-Length: ${json.length}\r\n`
  return [
    { name: 'a length', send: post(length, json), status: 200 },
    { name: 'chunks of one byte', send: post('Transfer-Encoding: chunked\r\n', inChunks(1)), status: 200 },
    {
      name: 'a trailer',
      send: post('Transfer-Encoding: chunked\r\nTrailer: A\r\n', inChunks(5).replace(/\r\n$/, 'A: b\r\n\r\n')),
      status: 200,
    },
    {
      name: 'an extension',
      send: post('Transfer-Encoding: chunked\r\n', inChunks(5).replace('\r\n', ';a=b\r\n')),
      status: 200,
    },
    { name: 'pieces', send: [...post(length, json)], status: 200, options: { pause: 1 } },
    {
      name: 'after 100 Continue',
      send: [image(`Content-Length: ${photo.length}\r\nExpect: 100-continue\r\n`), photo],
      status: 200,
      options: { pause: 50 },
      holds: ({ answers: [first] }) => first?.status === 100,
    },
    { name: 'after another expectation', send: post(`${length}Expect: tea\r\n`, json), status: 417 },
    { name: 'no length, JSON', send: post(''), status: 400 },
    { name: 'no length, image', send: image(''), status: 422 },
    { name: 'a length over the limit', send: post('Content-Length: 999999999\r\n'), status: 413 },
    { name: 'compressed', send: post(`${length}Content-Encoding: gzip\r\n`, json), status: 415 },
    { name: 'with a GET', send: get('/info', length) + json, status: 200 },
  ]
}

function methods(): Case[] {
  const { document } = readContract()
  const known = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND', 'SEARCH']
  const cases = Object.entries(document.paths).flatMap(([path, operations]) =>
    known
      .filter((method) => !(method.toLowerCase() in operations))
      .map((method) => ({
        name: `${method} ${path}`,
        send: `${method} ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`,
        status: 405,
        holds: ({ answers: [answer] }: Exchange) =>
          answer?.headers.allow === ('get' in operations ? 'GET, HEAD' : 'POST') && isProblem(answer),
      })),
  )
  const bodiless = ({ answers: [answer] }: Exchange) => Number(answer?.headers['content-length']) > 0
  return [
    ...cases,
    {
      name: 'HEAD /info',
      send: get('/info').replace('GET', 'HEAD'),
      status: 200,
      options: { head: true },
      holds: bodiless,
    },
    {
      name: 'HEAD /encode',
      send: get('/encode').replace('GET', 'HEAD'),
      status: 405,
      options: { head: true },
      holds: bodiless,
    },
    { name: 'a word that is no method', send: 'BREW /info HTTP/1.1\r\nHost: x\r\n\r\n', status: 400 },
    { name: 'a method in lower case', send: 'get /info HTTP/1.1\r\nHost: x\r\n\r\n', status: 400 },
    { name: 'CONNECT', send: 'CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n', status: undefined },
    { name: 'an upgrade', send: get('/health/live', 'Connection: Upgrade\r\nUpgrade: websocket\r\n'), status: 200 },
  ]
}

const targets: Case[] = [
  { name: 'absolute', send: get('http://elsewhere:1/health/live?x=1'), status: 200 },
  { name: 'encoded', send: get('/health/%6cive'), status: 200 },
  { name: 'with a query', send: get('/health/live?a=b&__proto__=c'), status: 200 },
  ...['/health/live/', '//health/live', '/health/../info', '/INFO', '/health/live;a', '/__proto__', '/constructor'].map(
    (target) => ({ name: target, send: get(target), status: 404 }),
  ),
  ...[
    '/docs/static/../../package.json',
    '/docs/static/%2e%2e/%2e%2e/package.json',
    '/docs/static/..%2f..%2fpackage.json',
  ].map((target) => ({
    name: target,
    send: get(target),
    status: target.includes('%2f') ? 404 : 400,
  })),
  ...['/%zz', '/encode%', '/%ff'].map((target) => ({ name: target, send: get(target), status: 400 })),
  { name: '*', send: get('*').replace('GET', 'OPTIONS'), status: 404 },
]

const oversize: Case[] = [
  {
    name: 'a header of 20 kB',
    send: get('/info', `A: ${'a'.repeat(20_000)}\r\n`),
    status: 431,
    options: { until: 2 },
    holds: closed,
  },
  {
    name: '3,000 headers',
    send: get('/info', Array.from({ length: 3000 }, (_, i) => `a${i}: b\r\n`).join('')),
    status: 431,
  },
  { name: 'a target of 20 kB', send: get(`/${'a'.repeat(20_000)}`), status: 431 },
  { name: 'a target of 12 kB', send: get(`/${'a'.repeat(12_000)}`), status: 404 },
  {
    name: 'a chunk extension of 20 kB',
    send: post('Transfer-Encoding: chunked\r\n', `1;${'a'.repeat(20_000)}\r\n`),
    status: 400,
  },
]

const versions: Case[] = [
  { name: 'HTTP/1.0', send: 'GET /health/live HTTP/1.0\r\n\r\n', status: 200, options: { until: 2 }, holds: closed },
  {
    name: 'HTTP/1.0 with a body',
    send: post(`Content-Length: ${json.length}\r\n`, json).replace('HTTP/1.1', 'HTTP/1.0'),
    status: 200,
  },
  { name: "HTTP/2's preface", send: 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', status: 400 },
  { name: 'HTTP/9.9', send: 'GET /info HTTP/9.9\r\nHost: x\r\n\r\n', status: 400 },
]

const halves: Case[] = [
  { name: 'in the headers', send: 'GET /info HTT', status: 400, options: { half: true } },
  { name: 'in the body', send: post('Content-Length: 100\r\n', '{"tok'), status: 400, options: { half: true } },
  {
    name: 'in a chunk',
    send: post('Transfer-Encoding: chunked\r\n', '64\r\n{"tok'),
    status: 400,
    options: { half: true },
  },
  {
    name: 'behind a whole request',
    send: post(`Content-Length: ${json.length}\r\n`, json),
    status: undefined,
    options: { half: true },
  },
]

/** Tries each case on a connection of its own. The figure names those that went wrong. */
async function tried(service: Service, promise: string, cases: Case[]): Promise<Finding> {
  const wrong: string[] = []
  for (const { name, send, status, options, holds } of cases) {
    const seen = await exchange(service.url, typeof send === 'string' ? [Buffer.from(send, 'latin1')] : send, options)
    const answer = seen.answers.find(({ status }) => status >= 200)
    if (answer?.status !== status || (holds && !holds(seen))) {
      wrong.push(`${name}: ${answer?.status ?? 'no answer'}${answer?.status === status ? ', otherwise wrong' : ''}`)
    }
  }
  const figure = `${cases.length - wrong.length} of ${cases.length} as they should${wrong.map((name) => `; ${name}`).join('')}`
  return { promise, figure, kept: wrong.length === 0 }
}

function isProblem({ status, headers, body }: RawAnswer): boolean {
  if (headers['content-type']?.startsWith('application/problem+json') !== true) return false
  const problem = JSON.parse(body.toString()) as { status: number; requestId: string }
  return problem.status === status && problem.requestId === headers['x-request-id']
}

/** Requests written at once, slow and fast ones mixed, over one connection. */
async function pipelined(service: Service, photo: Buffer): Promise<Finding> {
  const image = `POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/webp\r\nContent-Length: ${photo.length}\r\n`
  const ids = Array.from({ length: 30 }, (_, i) => `pipelined-${i}`)
  const requests = ids.flatMap((id, i) => {
    const named = `X-Request-Id: ${id}\r\n`
    if (i % 3 === 0) return [`${image}${named}\r\n`, photo]
    return i % 3 === 1 ? [get('/health/live', named)] : [post(`${named}Content-Length: ${json.length}\r\n`, json)]
  })
  const { answers } = await exchange(service.url, [Buffer.concat(requests.map((piece) => Buffer.from(piece)))], {
    until: ids.length,
  })
  const inOrder = answers.filter(
    ({ status, headers }, i) => status === 200 && headers['x-request-id'] === ids[i],
  ).length
  return {
    promise: 'pipelined requests are answered in their order',
    figure: `${inOrder} of ${ids.length}`,
    kept: inOrder === ids.length,
  }
}

/** Clients that send their headers, or their body, one byte at a time. Begins at once; the findings come when they end. */
function slowClients(service: Service): AsyncGenerator<Finding> {
  const most = REQUEST_TIMEOUT + CHECK_SECONDS + 1
  const drip = (head: string, seconds: number) =>
    Promise.all(
      Array.from({ length: 20 }, () =>
        exchange(service.url, [head, ...'a'.repeat(seconds * 5)], { pause: 200, most: seconds + 5 }),
      ),
    )
  const body = drip('POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n', 10)
  const part = drip(
    'POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n',
    10,
  )
  const headers = drip('GET /info HTTP/1.1\r\nHost: x\r\nA: ', most)
  return (async function* () {
    for (const [what, clients, bound] of [
      ['a body', body, REQUEST_TIMEOUT + 2],
      ['a multipart body', part, REQUEST_TIMEOUT + 2],
      ['headers', headers, most],
    ] as const) {
      const seen = await clients
      const slowest = Math.max(...seen.map(({ seconds }) => seconds))
      const timedOut = seen.filter(({ answers: [answer] }) => answer?.status === 504).length
      yield {
        promise: `clients that send ${what} one byte at a time are cut off with 504`,
        figure: `${timedOut} of ${seen.length} got it, the last after ${slowest.toFixed(1)} s (limit ${bound} s)`,
        kept: timedOut === seen.length && slowest <= bound,
      }
    }
  })()
}

/** Good requests while the slow clients are connected. */
async function whileSlow(service: Service, photo: Buffer<ArrayBuffer>): Promise<Finding> {
  let served = 0
  const count = 20
  for (let i = 0; i < count; i++) {
    const answer = await fetch(`${service.url}/encode`, {
      method: 'POST',
      body: photo,
      headers: { 'content-type': 'image/webp' },
    })
    if (answer.status === 200) served++
  }
  return {
    promise: 'slow clients affect nobody else',
    figure: `${served} of ${count} served beside 60 of them`,
    kept: served === count,
  }
}
