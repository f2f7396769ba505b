import assert from 'node:assert/strict'
import { test } from 'node:test'
import { comparisonTable } from '../../bench/against.ts'
import type { Row } from '../../bench/results.ts'

function row(round: number, contestant: string, imagesPerSecond: number): Row {
  return {
    ...{ round, contestant, load: 'decode', route: 'decode', clients: 32, batch: 1, seconds: 8, requests: 800 },
    ...{ images: 800, imagesPerSecond, errors: {}, cpuMsPerImage: 1000 / imagesPerSecond, memoryMiB: 500 },
    ...{
      latencyMs: { p50: 1, p95: 1, p99: 1, max: 1 },
      health: { p50: 1, p99: 1, asked: 1, failed: 0 },
      eventLoopMs: 5,
    },
  }
}

test('ratios are computed within a round, whichever side was measured first', () => {
  const page = comparisonTable({
    commits: { this: 'aaaaaaa', other: 'bbbbbbb' },
    entries: [
      { name: 'this', title: 'this (aaaaaaa)' },
      { name: 'other', title: 'other (bbbbbbb)', failure: 'ended with exit code 1' },
    ],
    // A machine that became twice as fast, and a third round in which one side was not measured.
    rows: [row(1, 'this', 110), row(1, 'other', 100), row(2, 'other', 200), row(2, 'this', 220), row(3, 'this', 500)],
    coldStarts: [
      { round: 1, contestant: 'this', seconds: 3 },
      { round: 1, contestant: 'other', seconds: 2 },
    ],
  })
  const [ratios] = /\| decode \| 32 \| \*\*this over other\*\* .*/.exec(page) ?? []
  assert.match(ratios ?? '', /\| 1\.1 \| 1 \| 1 \| 0\.909 \| 1 \|/)
  assert.match(page, /\| \*\*this over other\*\* \| 1\.5 \|/)
  assert.match(page, /other \(bbbbbbb\) failed\*\*: ended with exit code 1/)
})
