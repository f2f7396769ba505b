import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { externalFiles } from '../../../src/inference/engine/external-files.ts'
import { BUNDLE, tinyBundle } from '../../helpers/bundle.ts'

test('it finds the files that a graph takes weights from', async () => {
  const parallel = tinyBundle('parallel')
  assert.deepEqual(externalFiles(await readFile(join(parallel, 'encoder.onnx'))), ['encoder.weights'])
  assert.deepEqual(externalFiles(await readFile(join(BUNDLE, 'decoder.onnx'))), [])
})

test('it reads names of more than 127 bytes, each once', () => {
  const entry = (name: string) =>
    Buffer.concat([
      Buffer.from('\x0a\x08location\x12', 'latin1'),
      Buffer.from(name.length < 128 ? [name.length] : [(name.length & 0x7f) | 0x80, name.length >> 7]),
      Buffer.from(name),
    ])
  const long = 'w'.repeat(300)
  const model = Buffer.concat([Buffer.from('model'), entry('a'), entry(long), Buffer.from('more'), entry('a')])
  assert.deepEqual(externalFiles(model), ['a', long])
})
