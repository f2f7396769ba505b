import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Contestant, contestants } from '../../bench/contestants.ts'
import type { Row } from '../../bench/results.ts'
import { sizings, sizingTargets } from '../../bench/sizing.ts'

const service = contestants.find(({ name }) => name === 'service') as Contestant

function row(round: number, contestant: string, imagesPerSecond: number): Row {
  return {
    ...{ round, contestant, imagesPerSecond, load: 'decode', route: 'decode', clients: 32, batch: 1 },
    ...{ seconds: 8, requests: 800, images: 800, errors: {}, cpuMsPerImage: 20, memoryMiB: 500, eventLoopMs: 5 },
    ...{ latencyMs: { p50: 1, p95: 1, p99: 1, max: 1 }, health: { p50: 1, p99: 1, asked: 1, failed: 0 } },
  }
}

test('every manual setting is the service with valid flags', () => {
  const [own, ...byHand] = sizings(service, 2)
  assert.equal(own, service)
  const place = { port: 1, model: 'bundle', cores: 2 }
  for (const { name, command } of byHand)
    assert.deepEqual(command(place), [...service.command(place), ...name.split(' ')])
  assert.ok(byHand.some(({ name }) => name === '--engines 1 --threads 2'))
})

test('the service is compared with the best manual setting of the same round', () => {
  const rows = [row(1, 'service', 100), row(1, 'a', 105), row(1, 'b', 90), row(2, 'service', 50), row(2, 'b', 54)]
  const [, decode] = sizingTargets(service, rows)
  assert.deepEqual([decode?.measured?.min, decode?.measured?.max, decode?.met], [1.05, 1.08, true])
  assert.equal(sizingTargets(service, [row(1, 'service', 100), row(1, 'a', 120)])[1]?.met, false)
})
