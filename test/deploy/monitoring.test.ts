import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { parse } from 'yaml'
import { readContract } from '../../src/http/contract.ts'
import { type Backend, listen, type Service, startBackend } from '../helpers/service.ts'

interface Rule {
  alert: string
  expr: string
}
interface Dashboard {
  panels: { title: string; targets: { expr: string }[] }[]
}

const text = (name: string) => readFileSync(new URL(`../../deploy/${name}`, import.meta.url), 'utf8')
const rules = () => parse(text('prometheus-alerts.yaml')).groups.flatMap((group: { rules: Rule[] }) => group.rules)

let backend: Backend
let service: Service

before(async () => {
  backend = await startBackend()
  service = await listen(backend)
})
after(async () => {
  await service.http.close()
  await backend.inference.close()
})

test('alerts and dashboard use existing metrics and labels', async () => {
  await fetch(`${service.base}/nowhere`)
  const served = await (await fetch(`${service.base}/metrics`)).text()
  const types = new Map([...served.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name, type]))
  const series = new Set(
    [...types].flatMap(([name, type]) =>
      type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
    ),
  )
  const dashboard: Dashboard = JSON.parse(text('grafana-dashboard.json'))
  const expressions = [
    ...rules().map(({ alert, expr }: Rule) => ({ where: alert, expr })),
    ...dashboard.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ where: title, expr }))),
  ]
  assert.ok(expressions.length > 20)
  const kinds = readFileSync(new URL('../../src/http/problem.ts', import.meta.url), 'utf8')
  for (const { where, expr } of expressions) {
    const named = expr.match(/\bnativetok_\w+/g) ?? []
    assert.ok(named.length > 0, where)
    for (const name of named) assert.ok(series.has(name), `${where}: ${name}`)
    for (const [, value = ''] of expr.matchAll(/kind=~?"([^"]+)"/g)) {
      for (const kind of value.split('|')) assert.match(kinds, new RegExp(`^ {2}'?${kind}'?: \\[\\d`, 'm'), where)
    }
    for (const [, value = ''] of expr.matchAll(/route=~?"([^"]+)"/g)) {
      for (const route of value.split('|')) assert.ok(route in readContract().document.paths, `${where}: ${route}`)
    }
  }
})

test('the guide to operations explains every alert and every metric', async () => {
  const operations = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8')
  for (const { alert } of rules()) assert.ok(operations.includes(`| \`${alert}\` |`), alert)
  const served = await (await fetch(`${service.base}/metrics`)).text()
  for (const [, name = ''] of served.matchAll(/^# TYPE (\S+) /gm)) {
    assert.ok(/^nativetok_(process|nodejs)_/.test(name) || operations.includes(`\`${name}\``), name)
  }
})
