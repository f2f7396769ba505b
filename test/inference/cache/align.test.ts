import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { readBundle } from '../../../src/inference/bundle.ts'
import { alignWeights } from '../../../src/inference/cache/align.ts'
import { loadGraph } from '../../../src/inference/engine/session.ts'
import { planBatches } from '../../../src/inference/sizing.ts'
import { BUNDLE } from '../../helpers/bundle.ts'

/** Where a saved graph says that its weights lie, and what was packed of them: offset and length. */
function placesIn(model: Buffer): [offset: number, length: number][] {
  const text = model.toString('latin1')
  const value = String.fromCharCode(18)
  const entries = [...text.matchAll(new RegExp(`offset${value}.(\\d+).{1,5}length${value}.(\\d+)`, 'gs'))]
  const packed = [...text.matchAll(/\|(\d+);(\d+);0/g)]
  return [...entries, ...packed].map(([, offset, length]) => [Number(offset), Number(length)])
}

test('weights that the runtime saved anywhere are moved to multiples of 64 bytes or to pages, unchanged', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'align-'))
  t.after(() => rm(folder, { recursive: true }))
  const { graphs, shape } = await readBundle(BUNDLE)
  const graph = graphs.find(({ name }) => name === 'mocet-1')
  assert.ok(graph)
  const file = join(folder, 'saved.onnx')
  const config = { graphs, shape, provider: 'cpu', device: 0, threads: 1, tf32: false } as const
  await loadGraph(graph, { ...config, batches: planBatches('cpu') }, { saveAs: { file, weights: 'saved.weights' } })
  const [saved, weights] = [await readFile(file), await readFile(join(folder, 'saved.weights'))]
  assert.ok(placesIn(saved).some(([offset]) => offset % 64 !== 0))

  const { model, moves, bytes } = alignWeights(saved)
  const places = placesIn(model)
  assert.ok(places.length > 500 && places.length === placesIn(saved).length)
  assert.deepEqual(
    places.filter(([offset, length]) => offset % (length < 4096 ? 64 : 4096) !== 0),
    [],
  )
  const moved = Buffer.alloc(bytes)
  for (const { from, length, to } of moves) weights.copy(moved, to, from, from + length)
  for (const [i, [offset, length]] of placesIn(saved).entries()) {
    const [to, same] = places[i] ?? []
    assert.equal(same, length)
    assert.ok(weights.subarray(offset, offset + length).equals(moved.subarray(to, (to ?? 0) + length)), `${offset}`)
  }
  const sorted = [...places].sort(([a], [b]) => a - b)
  for (const [i, [offset, length]] of sorted.entries()) {
    assert.ok(offset + length <= (sorted[i + 1]?.[0] ?? bytes), 'weights overlap')
  }
})

test('bytes that are no ONNX file are refused', () => {
  for (const bytes of [Buffer.from([0x3a, 0x7f, 1]), Buffer.from([0x3b]), Buffer.from([0x80])]) {
    assert.throws(() => alignWeights(bytes), RangeError)
  }
})
