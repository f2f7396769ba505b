import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createConnection, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { components } from '../src/http/openapi.d.ts'
import { BUNDLE, tinyBundle } from './helpers/bundle.ts'
import { conforming, json, problem } from './helpers/contract.ts'
import { fixture, formOf, photos, until } from './helpers/service.ts'

type Tokens = components['schemas']['Tokens']

const root = fileURLToPath(new URL('..', import.meta.url))

function run(...args: string[]): ChildProcess & { stdout: NodeJS.ReadableStream; stderr: NodeJS.ReadableStream } {
  const child = spawn(process.execPath, ['src/server.ts', ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  return child as ReturnType<typeof run>
}

/** Starts the process and waits until it serves. */
async function start(...args: string[]) {
  const child = run('--model', BUNDLE, '--provider', 'cpu', '--port', '0', ...args)
  const lines: Record<string, unknown>[] = []
  createInterface(child.stdout as NodeJS.ReadableStream).on('line', (line) => lines.push(JSON.parse(line)))
  const said = (pattern: RegExp) => lines.map(({ msg }) => pattern.exec(String(msg))).find((match) => match !== null)
  await until(() => said(/^try: /) !== undefined || child.exitCode !== null)
  const base = said(/^listening on (\S+)/)?.[1] as string
  const pid = Number(lines.find(({ msg }) => msg === 'engine ready')?.enginePid)
  return { child, lines, said, base, engine: pid, exit: once(child, 'exit') as Promise<[number | null]> }
}

const encode = (base: string) =>
  json<Tokens>('POST', '/encode', fetch(`${base}/encode`, { method: 'POST', body: formOf(photos.slice(0, 1)) }))

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Runs to its end. */
async function outcome(...args: string[]) {
  const child = run(...args)
  const [[code], stdout, stderr] = await Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)])
  return { code, stdout, stderr }
}

for (const name of ['parallel', 'state'] as const) {
  test(`the command to try works with the model that is served: ${name}`, async () => {
    const server = await start('--model', tinyBundle(name), '--drain-delay', '0')
    try {
      const [, file = '', url = ''] = server.said(/^try: curl -F images=@test\/fixtures\/(\S+) '(\S+)'$/) ?? []
      const answer = await fetch(url, { method: 'POST', body: formOf([fixture(file)]) })
      assert.ok(((await conforming('POST', '/encode', answer)) as Tokens).tokens[0]?.length)
    } finally {
      server.child.kill('SIGTERM')
      await server.exit
    }
  })
}

test('it logs what it serves and a command to try, and drains on SIGTERM', async () => {
  const server = await start('--drain-delay', '3')
  try {
    const { lines, base, said } = server
    const serving = lines.find(({ msg }) => msg === 'serving')
    assert.match(String(serving?.model), /^[0-9a-f]{64}$/)
    assert.deepEqual([serving?.provider, typeof serving?.providerReason], ['cpu', 'string'])
    const [, file = '', url = ''] = said(/^try: curl -F images=@test\/fixtures\/(\S+) '(\S+)'$/) ?? []
    const answer = await fetch(url, { method: 'POST', body: formOf([fixture(file)]) })
    assert.equal(((await conforming('POST', '/encode', answer)) as Tokens).tokens[0]?.length, 32)

    // A body that fails before it is read must not end the process.
    const broken = { method: 'POST', body: 'x', headers: { 'content-type': 'multipart/form-data' } }
    assert.equal((await fetch(`${base}/encode`, broken)).status, 400)

    // The log's level changes while it serves, and back.
    const debugging = () => lines.filter(({ msg }) => msg === 'took').length
    const levels = () => lines.filter(({ msg }) => msg === 'log level changed').map(({ level }) => level)
    server.child.kill('SIGUSR2')
    await until(() => levels().length === 1)
    await encode(base)
    await until(() => debugging() === 1)
    server.child.kill('SIGUSR2')
    await until(() => levels().length === 2)
    await encode(base)
    assert.equal(debugging(), 1)

    assert.equal((await fetch(`${base}/health/ready`)).status, 200)
    server.child.kill('SIGTERM')
    await until(() => said(/^draining$/) !== undefined)
    const expected = { status: 503, kind: 'draining', detail: /shutting down/ }
    await problem(expected, 'GET', '/health/ready', fetch(`${base}/health/ready`))
    assert.equal((await fetch(`${base}/health/live`)).status, 200)
    await encode(base)
    assert.deepEqual(await server.exit, [0, null])
    assert.ok(!isAlive(server.engine))
    // The log has the cost of a request, but not its content.
    assert.ok(lines.every((line) => JSON.stringify(line).length < 2000))
    assert.ok(lines.some((line) => line.url === '/encode?length=32' && line.status === 200 && line.images === 1))
  } finally {
    server.child.kill('SIGKILL')
  }
})

test('accepted requests are finished after the listener has closed', async () => {
  // A second engine would answer instead of the stopped one.
  const server = await start('--drain-delay', '0', '--engines', '1')
  try {
    const { base, engine } = server
    await encode(base)
    process.kill(engine, 'SIGSTOP')
    const accepted = encode(base)
    await until(async () => {
      const metrics = await (await fetch(`${base}/metrics`)).text()
      return /nativetok_batch_size_count\{kind="encode"\} 2/.test(metrics)
    })
    server.child.kill('SIGTERM')
    await until(async () =>
      fetch(`${base}/health/live`).then(
        () => false,
        () => true,
      ),
    )
    process.kill(engine, 'SIGCONT')
    assert.equal((await accepted).tokens[0]?.length, 128)
    assert.deepEqual(await server.exit, [0, null])
    assert.ok(!isAlive(engine))
  } finally {
    server.child.kill('SIGKILL')
  }
})

test('signals to the whole process group under npm, which repeats them, lose no accepted request', async () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    const flags = ['--model', BUNDLE, '--provider', 'cpu', '--port', '0', '--engines', '1', '--drain-delay', '2']
    // Its own process group, like those of a terminal or a supervisor.
    const npm = spawn('npm', ['start', '--', ...flags], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    })
    try {
      const lines: { msg?: string; enginePid?: number }[] = []
      createInterface(npm.stdout).on('line', (line) => line.startsWith('{') && lines.push(JSON.parse(line)))
      const said = (pattern: RegExp) => lines.find(({ msg }) => pattern.test(`${msg}`))
      await until(() => said(/^try: /) !== undefined || npm.exitCode !== null)
      const base = said(/^listening on /)?.msg?.replace('listening on ', '') as string
      const engine = Number(said(/^engine ready$/)?.enginePid)
      process.kill(engine, 'SIGSTOP')
      const accepted = Array.from({ length: 8 }, () => encode(base))
      await until(async () => /images_in_flight 8/.test(await (await fetch(`${base}/metrics`)).text()))
      process.kill(-(npm.pid as number), signal)
      await new Promise((resolve) => setTimeout(resolve, 500))
      if (signal === 'SIGTERM') process.kill(-(npm.pid as number), signal)
      process.kill(engine, 'SIGCONT')
      for (const { tokens } of await Promise.all(accepted)) assert.equal(tokens[0]?.length, 128)
      await until(() => said(/^ended$/) !== undefined)
    } finally {
      try {
        process.kill(-(npm.pid as number), 'SIGKILL')
      } catch {}
    }
  }
})

test('Ctrl-C pressed again after some seconds ends it at once', async () => {
  const server = await start('--drain-delay', '60')
  try {
    server.child.kill('SIGINT')
    await until(() => server.said(/^draining$/) !== undefined)
    server.child.kill('SIGINT')
    await new Promise((resolve) => setTimeout(resolve, 3500))
    assert.equal(server.child.exitCode, null)
    server.child.kill('SIGINT')
    assert.deepEqual(await server.exit, [1, null])
  } finally {
    server.child.kill('SIGKILL')
  }
})

test('a connection that has sent nothing does not keep the process alive', async () => {
  const server = await start('--drain-delay', '0')
  const socket = createConnection(Number(new URL(server.base).port), '127.0.0.1').on('error', () => {})
  try {
    await once(socket, 'connect')
    server.child.kill('SIGTERM')
    assert.deepEqual(await server.exit, [0, null])
  } finally {
    socket.destroy()
    server.child.kill('SIGKILL')
  }
})

test('an error at startup is one sentence and exit code 1', async () => {
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  const port = `${(other.address() as AddressInfo).port}`
  const cases: [string[], RegExp][] = [
    [['--model', `${root}/test/fixtures`], /manifest\.json/],
    [['--port', 'http'], /--port/],
    [['--model', BUNDLE, '--provider', 'cpu', '--port', port], /port \d+ is in use/],
  ]
  for (const [args, sentence] of cases) {
    const { code, stderr } = await outcome(...args)
    assert.equal(code, 1, stderr)
    assert.match(stderr, /^nativetok: [^\n]+\n$/)
    assert.match(stderr, sentence)
  }
  other.close()
})

test('--help is printed with exit code 0', async () => {
  const { code, stdout, stderr } = await outcome('--help')
  assert.deepEqual([code, stderr], [0, ''])
  assert.match(stdout, /--drain-delay/)
})
