import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const src = fileURLToPath(new URL('../src', import.meta.url))

/** From the bottom up. A module may import from its own layer and from those that its layer lists, types included. */
const layers: Record<string, string[]> = {
  formats: [],
  inference: [],
  'config.ts': [],
  'shutdown.ts': [],
  http: ['formats', 'inference', 'config.ts'],
  access: ['http', 'config.ts'],
  observability: ['http', 'inference'],
  'services.ts': ['access', 'http', 'inference', 'observability', 'config.ts'],
  tokenize: ['formats', 'inference', 'observability', 'config.ts'],
  routes: ['access', 'formats', 'http', 'inference', 'services.ts', 'config.ts'],
  'app.ts': ['access', 'http', 'inference', 'observability', 'routes', 'services.ts', 'config.ts'],
  'server.ts': ['app.ts', 'config.ts', 'formats', 'inference', 'observability', 'shutdown.ts'],
}

/** What each module under src imports from under src. */
const imports = new Map(
  readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))
    .map((file) => {
      const text = readFileSync(join(src, file), 'utf8')
      const found = [...text.matchAll(/(?:from|import\()\s*'(\.[^']+)'|^import '(\.[^']+)'|new URL\('(\.[^']+\.ts)'/gm)]
      const paths = found.map(([, from, bare, url]) => join(dirname(file), (from ?? bare ?? url) as string))
      return [file, paths.filter((path) => !path.startsWith('..'))] as const
    }),
)
const layerOf = (file: string) => file.split('/')[0] as string

test('every module imports from its own layer or from a lower one', () => {
  assert.ok(imports.size > 30)
  for (const [file, paths] of imports) {
    const layer = layerOf(file)
    const allowed = layers[layer]
    assert.ok(allowed, `${file} is not in any layer: add it in ${relative(process.cwd(), import.meta.filename)}`)
    for (const path of paths) {
      assert.ok(layerOf(path) === layer || allowed.includes(layerOf(path)), `${file} must not import ${path}`)
    }
  }
})

test('formats of token data sets know nothing of the pipeline that uses them', () => {
  const modules = [...imports].filter(([file]) => file.startsWith('tokenize/formats/'))
  assert.ok(modules.length > 6)
  for (const [file, paths] of modules) {
    const others = paths.filter(
      (path) => !/^(tokenize\/formats\/|tokenize\/(durable|errors)\.ts$|formats\/)/.test(path),
    )
    assert.deepEqual(others, [], `${file} must not import them`)
  }
})

test('no module imports itself through others', () => {
  const done = new Set<string>()
  const visit = (file: string, way: string[]) => {
    assert.ok(!way.includes(file), `a circle: ${[...way, file].join(' -> ')}`)
    if (done.has(file)) return
    for (const path of imports.get(file) ?? []) visit(path, [...way, file])
    done.add(file)
  }
  for (const file of imports.keys()) visit(file, [])
})
