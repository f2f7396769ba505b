import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { cpuSeconds, memoryByProcess, memoryMiB, treeOf } from '../../tools/process-tree.ts'

const SECONDS = 0.3
const burn = `{
  const used = () => { const { user, system } = process.cpuUsage(); return user + system }
  const end = used() + ${SECONDS * 1e6}
  while (used() < end);
}`
const MIB = 64
const stay = `globalThis.held = Buffer.alloc(${MIB} * 2 ** 20, 1); process.stdout.write('x'); setInterval(() => {}, 1000)`
// Uses the processor, has a child that does so and ends, and one that also takes memory and stays.
const family = `
  const { spawn, spawnSync } = require('node:child_process')
  spawnSync(process.execPath, ['-e', ${JSON.stringify(burn)}])
  ${burn}
  spawn(process.execPath, ['-e', ${JSON.stringify(burn + stay)}], { stdio: 'inherit' })
  setInterval(() => {}, 1000)`

test('processor time and memory of a process include those of its children, ended or not', async (t) => {
  const child = spawn(process.execPath, ['-e', family], { stdio: ['ignore', 'pipe', 'inherit'] })
  const pid = child.pid as number
  t.after(async () => {
    for (const member of await treeOf(pid)) process.kill(member, 'SIGKILL')
  })
  await once(child.stdout, 'data')
  assert.equal((await treeOf(pid)).length, 2)
  const used = await cpuSeconds(pid)
  assert.ok(used >= 3 * SECONDS, `three times ${SECONDS} s were used, ${used} s were counted`)
  assert.ok(used < 3 * SECONDS + 2, `${used} s are more than is possible`)
  const memory = await memoryMiB(pid)
  assert.ok(memory > MIB && memory < MIB + 400, `${MIB} MiB were taken, ${memory} MiB were counted`)
  const [first, second, ...others] = await memoryByProcess(pid)
  assert.ok(first?.pid === pid && second !== undefined && others.length === 0)
  assert.ok(
    second.ownMiB > MIB && second.withSharedMiB > second.ownMiB && first.ownMiB < MIB,
    JSON.stringify([first, second]),
  )
})

test('a process that has ended counts as zero', async () => {
  const child = spawn(process.execPath, ['-e', ''])
  await once(child, 'exit')
  assert.equal(await cpuSeconds(child.pid as number), 0)
})
