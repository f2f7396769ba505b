import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import openapiTypescript, { astToString } from 'openapi-typescript'
import { fixture, Service, small } from './helpers/service.ts'

const run = promisify(execFile)
const here = fileURLToPath(new URL('..', import.meta.url))
let folder: string

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'client-'))
})
after(() => rm(folder, { recursive: true }))

test('the types are those of the contract', async () => {
  const contract = new URL('../../../openapi.yaml', import.meta.url)
  const generated = astToString(await openapiTypescript(contract))
  const kept = await readFile(join(here, 'src/openapi.ts'), 'utf8')
  assert.ok(kept.endsWith(generated), 'run: npm run generate')
})

test('packed from a clean folder, it runs the first lines of the README', async () => {
  const clean = join(folder, 'typescript')
  await cp(here, clean, {
    recursive: true,
    filter: (path) => !['node_modules', 'dist'].includes(basename(path)),
  })
  await symlink(join(here, 'node_modules'), join(clean, 'node_modules'))
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: clean })
  const [{ filename, files }] = JSON.parse(stdout.slice(stdout.indexOf('[\n'))) as [
    { filename: string; files: { path: string }[] },
  ]
  const names = files.map((file) => file.path).sort()
  for (const name of ['README.md', 'dist/index.d.ts', 'dist/index.js', 'dist/openapi.d.ts', 'package.json']) {
    assert.ok(names.includes(name), `${name} is not in ${names}`)
  }
  assert.deepEqual(
    names.filter((name) => !name.startsWith('dist/')),
    ['README.md', 'package.json'],
  )

  const user = join(folder, 'user')
  await cp(join(clean, 'README.md'), join(user, 'README.md'), { recursive: true })
  await writeFile(join(user, 'package.json'), '{ "type": "module" }')
  await run('npm', ['install', '--no-audit', '--no-fund', join(folder, filename)], { cwd: user })
  const readme = await readFile(join(here, 'README.md'), 'utf8')
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(readme) ?? []
  assert.equal(code.trim().split('\n').length, 5)
  const service = await Service.start(small)
  try {
    await writeFile(join(user, 'cat.jpg'), fixture('formats/cat.jpg'))
    await writeFile(join(user, 'first.ts'), code.replace('http://localhost:8080', service.url))
    const { stdout } = await run(process.execPath, ['first.ts'], { cwd: user })
    assert.match(stdout, /^32 image\/png\n$/)
    // A TypeScript project that uses it type-checks.
    const flags = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,dom']
    const types = ['--types', 'node', '--typeRoots', join(here, 'node_modules/@types')]
    await run(process.execPath, [join(here, 'node_modules/typescript/bin/tsc'), ...flags, ...types, 'first.ts'], {
      cwd: user,
    })
  } finally {
    await service.end()
  }
})
