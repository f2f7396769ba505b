import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { checkOut } from '../../tools/checkout.ts'
import { root } from '../../tools/service.ts'

test('a commit is checked out into its own folder, ready to start, and removed afterwards', async () => {
  const { folder, commit, dispose } = await checkOut('HEAD')
  assert.notEqual(folder, root)
  assert.match(commit, /^[0-9a-f]{7,}$/)
  for (const name of ['start.sh', 'models/nativetok-128/manifest.json', 'node_modules/fastify']) {
    assert.ok(existsSync(join(folder, name)), name)
  }
  await dispose()
  assert.ok(!existsSync(folder))
  assert.ok(existsSync(join(root, 'node_modules', 'fastify')), 'shared packages still exist')
})

test('a folder with a checkout is used unchanged', async () => {
  const { folder, dispose } = await checkOut(root)
  await dispose()
  assert.equal(folder, root)
  assert.ok(existsSync(join(root, 'start.sh')))
})

test('anything that is neither a folder nor a commit is refused by name', async () => {
  await assert.rejects(checkOut('no-such-commit'), /no-such-commit is neither a folder with a checkout nor a commit/)
})
