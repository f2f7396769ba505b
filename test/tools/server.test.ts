import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../tools/free-port.ts'
import { treeOf } from '../../tools/process-tree.ts'
import { Server } from '../../tools/server.ts'
import { secondsUntil, until } from '../../tools/wait.ts'

const answers = (url: string) =>
  fetch(url).then(
    ({ ok }) => ok,
    () => false,
  )

async function start(script: string, stopSeconds?: number): Promise<Server> {
  const port = await freePort()
  return Server.start({
    command: [process.execPath, '-e', script, `${port}`],
    url: `http://127.0.0.1:${port}`,
    started: answers,
    ...(stopSeconds !== undefined && { stopSeconds }),
  })
}

const listen = `require('node:http').createServer((_, response) => {
  console.log('asked')
  response.end()
}).listen(process.argv[1], '127.0.0.1')`

test('a server is ready once it answers, and its output can be read while it runs', async () => {
  const server = await start(`console.error('hello'); ${listen}`)
  try {
    assert.ok(server.startSeconds > 0)
    assert.equal(server.stderr, 'hello\n')
    const before = server.stdout().length
    await fetch(server.url)
    await until(() => server.stdout(before).length > 0, 5)
    assert.equal(server.stdout(before).toString(), 'asked\n')
  } finally {
    await server.stop()
  }
  assert.deepEqual([server.ended, server.exit], [true, 'SIGTERM'])
})

test('a server that ends before it answers is an error with its last output', async () => {
  await assert.rejects(start("console.error('no such model'); process.exit(3)"), {
    message: 'ended with exit code 3: no such model',
  })
})

test('a server that does not end on SIGTERM is killed, with its children', async () => {
  const ignoring = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000);"
  const server = await start(
    `${ignoring} require('node:child_process').spawn(process.execPath, ['-e', ${JSON.stringify(ignoring)}]); ${listen}`,
    0.5,
  )
  await until(async () => (await treeOf(server.pid)).length === 2, 5)
  await sleep(200)
  const tree = await treeOf(server.pid)
  await server.stop()
  assert.equal(server.exit, 'SIGKILL')
  // Without its parent, a child belongs to the system, which reaps it at some later time.
  for (const pid of tree) await until(async () => (await treeOf(pid)).length === 0, 5)
})

test('waiting for a condition that never holds ends', async () => {
  assert.equal(await secondsUntil(() => false, 0.05), Number.POSITIVE_INFINITY)
  await assert.rejects(
    until(() => false, 0.05),
    /not true after 0.05 s/,
  )
})
