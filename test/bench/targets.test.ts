import assert from 'node:assert/strict'
import { test } from 'node:test'
import { targetTable } from '../../bench/report.ts'
import type { BaselineRow, Row } from '../../bench/results.ts'
import { soakTargets } from '../../bench/soak.ts'
import { targetsOf } from '../../bench/targets.ts'

function row(values: Partial<Row> & { p99?: number; p50?: number }): Row {
  const { p50 = 10, p99 = 100, ...others } = values
  return {
    ...{ round: 1, contestant: 'service', load: 'encode-crops', route: 'encode', clients: 32, batch: 1 },
    ...{ seconds: 8, requests: 800, images: 800, imagesPerSecond: 100, errors: {}, cpuMsPerImage: 20 },
    ...{ latencyMs: { p50, p95: p99, p99, max: p99 }, memoryMiB: 500, eventLoopMs: 5 },
    ...{ health: { p50: 1, p99: 10, asked: 400, failed: 0 } },
    ...others,
  }
}

function baselineRow(values: Partial<BaselineRow>): BaselineRow {
  const latencyMs = { p50: 10, p95: 10, p99: 10 }
  return {
    ...{
      round: 1,
      load: 'encode-crops',
      batch: 32,
      inParts: true,
      imagesPerSecond: 120,
      cpuMsPerImage: 19,
      memoryMiB: 400,
      latencyMs,
    },
    ...values,
  }
}

function find(
  pattern: RegExp,
  rows: Row[],
  baseline: BaselineRow[] = [],
  stages: Parameters<typeof targetsOf>[0]['stages'] = [],
) {
  const found = targetsOf({ rows, baseline, stages }).filter(({ what }) => pattern.test(what))
  assert.equal(found.length, 1, `${pattern} names ${found.length} targets`)
  return found[0]
}

test('processor time is compared with the baseline at its fastest batch size', () => {
  const baseline = [baselineRow({}), baselineRow({ batch: 1, imagesPerSecond: 30, cpuMsPerImage: 60 })]
  const met = find(/processor time .* baseline over .* crops/, [row({})], baseline)
  assert.deepEqual([met?.measured?.median, met?.met], [0.95, true])
  assert.equal(find(/processor time .* baseline over .* crops/, [row({ cpuMsPerImage: 25 })], baseline)?.met, false)
})

test('results with a baseline that runs whole batches have targets for both kinds', () => {
  const baseline = [
    baselineRow({ inParts: false }),
    baselineRow({ inParts: true, imagesPerSecond: 140, cpuMsPerImage: 16 }),
  ]
  const whole = find(/processor time .* baseline on whole batches over .* crops/, [row({})], baseline)
  assert.equal(whole?.measured?.median, 0.95)
  const inParts = find(/processor time .* baseline over .* crops/, [row({})], baseline)
  assert.deepEqual([inParts?.measured?.median, inParts?.met], [0.8, false])
})

test('throughput and p99 are compared with the best of any peer in the round', () => {
  const peers = [
    row({ contestant: 'ray', imagesPerSecond: 90, p99: 200 }),
    row({ contestant: 'fastapi', imagesPerSecond: 80, p99: 90 }),
  ]
  const throughput = find(/throughput over the best of any peer.* crops/, [row({}), ...peers])
  assert.deepEqual([throughput?.measured?.median, throughput?.met], [100 / 90, true])
  assert.equal(
    find(/p99 latency .* any peer.* crops/, [row({}), ...peers])?.met,
    false,
    'a peer with lower throughput has a better p99',
  )
})

test('the peer with a batching queue does not count as a usual setup', () => {
  const peers = [
    row({ contestant: 'fastapi-batch', imagesPerSecond: 120, p99: 80 }),
    row({ contestant: 'ray', imagesPerSecond: 80, p99: 200 }),
  ]
  const measured = (pattern: RegExp) => find(pattern, [row({}), ...peers])?.measured?.median
  assert.equal(measured(/throughput over the best of any peer.* crops/), 100 / 120)
  assert.equal(measured(/throughput over the best of FastAPI as usual.* crops/), 100 / 80)
  assert.equal(measured(/p99 latency .* any peer.* crops/), 100 / 80)
  assert.equal(measured(/p99 latency .* FastAPI as usual.* crops/), 100 / 200)
})

test("the median of the rounds' ratios counts, not the ratio of the medians", () => {
  // The machine is twice as slow in the second round, but the ratio is the same.
  const rows = [1, 2].flatMap((round) => [
    row({ round, imagesPerSecond: 110 / round }),
    row({ round, contestant: 'fastapi', imagesPerSecond: 100 / round }),
  ])
  const { median = 0, min = 0, max = 0 } = find(/throughput over the best of any peer.* crops/, rows)?.measured ?? {}
  for (const value of [median, min, max]) assert.ok(Math.abs(value - 1.1) < 1e-9)
})

test('a single request is compared with the baseline at batch 1', () => {
  const alone = [baselineRow({ batch: 1, latencyMs: { p50: 10, p95: 11, p99: 12 } })]
  assert.equal(find(/single request .* crops/, [row({ clients: 1, p50: 11.5 })], alone)?.met, true)
  assert.equal(find(/single request .* crops/, [row({ clients: 1, p50: 11.6 })], alone)?.met, false)
})

test('under full load the worst load counts', () => {
  const rows = [
    row({ clients: 128 }),
    row({ clients: 128, load: 'decode', eventLoopMs: 21, health: { p50: 1, p99: 49, asked: 1, failed: 0 } }),
  ]
  assert.deepEqual([find(/event loop/, rows)?.measured?.median, find(/event loop/, rows)?.met], [21, false])
  assert.equal(find(/health/, rows)?.met, true)
})

test('throughput must not fall with four times the clients, and one error in one round is too many', () => {
  const rows = [row({}), row({ clients: 128, imagesPerSecond: 96 }), row({ round: 2 }), row({ round: 3 })]
  assert.equal(find(/at 128 clients over .*: encode, 128 px crops$/, rows.slice(0, 2))?.met, true)
  assert.equal(find(/errors/, rows)?.met, true)
  assert.equal(find(/errors/, [...rows, row({ round: 3, errors: { 503: 1 } })])?.met, false)
})

test('the first stage is compared with all stages', () => {
  const stages = [{ round: 1, batch: 32, milliseconds: { 32: 31, 128: 100 } }]
  assert.deepEqual(
    [find(/MoCET .* batch 32/, [], [], stages)?.met, find(/MoCET .* batch 1$/, [], [], stages)?.met],
    [false, undefined],
  )
})

test('a target that was not measured is neither met nor missed, and the report says so', () => {
  const targets = targetsOf({ rows: [], baseline: [], stages: [] })
  assert.ok(targets.every(({ measured, met }) => measured === undefined && met === undefined))
  assert.ok(
    targetTable(targets)
      .split('\n')
      .slice(2)
      .every((line) => line.endsWith('| not measured |')),
  )
})

test('memory at the end of a soak is compared with memory at its beginning', () => {
  const rows = (last: number) => [
    { images: 1000, memoryMiB: 1000, errors: 0 },
    { images: 25000, memoryMiB: 2000, errors: 0 },
    { images: 50000, memoryMiB: last, errors: 0 },
  ]
  assert.deepEqual(
    soakTargets(rows(1050)).map(({ met }) => met),
    [true, true],
  )
  assert.deepEqual(
    soakTargets(rows(1060)).map(({ met }) => met),
    [false, true],
  )
})
