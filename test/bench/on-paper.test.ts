import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { blockMacs, encodeMacs, expertMacs, imagenet, imagesPerSecond, tables } from '../../bench/on-paper.ts'

const giga = (macs: number | undefined) => Math.round((macs ?? 0) / 1e9)

test('counts the multiply-adds of published models', () => {
  // Counted apart from this: TiTok-S's two transformers 22, NativeTok's image transformer 61 and its experts 45, with only
  // the last row of their last block; 78 with all rows.
  assert.equal(giga(2 * (encodeMacs['TiTok-S-128'] ?? 0)), 22)
  assert.equal(giga(18 * blockMacs(257, 1024)), 61)
  assert.equal(giga(expertMacs(128, 256)), 45)
  const allRows = Array.from({ length: 128 }, (_, i) => 2 * blockMacs(258 + i, 256)).reduce((sum, macs) => sum + macs)
  assert.equal(giga(allRows), 78)
  assert.equal(giga(encodeMacs['NativeTok-128']), 61 + 45)
})

test('a further view costs less than a photo, and ten views cost more than one', () => {
  const [one, ten] = [imagesPerSecond(1), imagesPerSecond(10)]
  assert.ok(ten < one && 10 * ten > one)
  assert.equal(Math.round(imagenet.bytesPerImage / 1000), 115)
})

test('the guide to clusters has the tables as they are computed', () => {
  const guide = readFileSync('docs/cluster.md', 'utf8')
  for (const table of tables().split('\n\n')) {
    assert.ok(guide.includes(table), `docs/cluster.md must have this table, of bin/node bench/on-paper.ts:\n${table}`)
  }
})
