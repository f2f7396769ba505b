import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'

test('NOTICE.md names every production dependency, its version and its licence', async () => {
  const notice = await readFile('NOTICE.md', 'utf8')
  const lines = new Map([...notice.matchAll(/^- \*\*(.+?)\*\*: (.+)$/gm)].map(([, licence, found]) => [licence, found]))
  const lock: { packages: Record<string, { version: string; license?: string; dev?: boolean }> } = JSON.parse(
    await readFile('package-lock.json', 'utf8'),
  )
  const missing = Object.entries(lock.packages)
    .filter(([path, { dev }]) => path !== '' && !dev)
    .map(([path, { version, license }]) => ({ name: `${path.split('node_modules/').pop()} ${version}`, license }))
    .filter(({ name, license }) => !lines.get(license)?.split(', ').includes(name))
  assert.deepEqual(missing, [], 'NOTICE.md holds the command that lists them')
})
