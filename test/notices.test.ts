import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'

interface Package {
  name: string
  version: string
  license?: string
}

/** The packages distributed with the service, on any platform. */
async function productionPackages(): Promise<Package[]> {
  const lock: { packages: Record<string, { version: string; license?: string; dev?: boolean }> } = JSON.parse(
    await readFile('package-lock.json', 'utf8'),
  )
  return Object.entries(lock.packages)
    .filter(([path, { dev }]) => path !== '' && !dev)
    .map(([path, { version, license }]) => ({
      name: path.split('node_modules/').pop() as string,
      version,
      ...(license && { license }),
    }))
}

test('NOTICE.md names every production dependency, its version and its licence', async () => {
  const notice = await readFile('NOTICE.md', 'utf8')
  const lines = new Map([...notice.matchAll(/^- \*\*(.+?)\*\*: (.+)$/gm)].map(([, licence, found]) => [licence, found]))
  const missing = (await productionPackages())
    .map(({ name, version, license = '' }) => ({ name: `${name} ${version}`, license }))
    .filter(({ name, license }) => !lines.get(license)?.split(', ').includes(name))
  assert.deepEqual(missing, [], 'NOTICE.md holds the command that lists them')
})

test('production dependencies have licences that allow distribution with the service', async () => {
  const permissive = ['0BSD', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'BlueOak-1.0.0', 'CC0-1.0', 'ISC', 'MIT']
  // libvips is a shared library that its recipient may replace, as NOTICE.md says.
  const allowed = (name: string) => (name.startsWith('@img/sharp-') ? [...permissive, 'LGPL-3.0-or-later'] : permissive)
  const refused = (await productionPackages()).filter(({ name, license = '' }) => {
    const alternatives = license.replaceAll(/[()]/g, '').split(' OR ')
    return !alternatives.some((all) => all.split(' AND ').every((one) => allowed(name).includes(one)))
  })
  assert.deepEqual(refused, [])
})
