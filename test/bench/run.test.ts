import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import sharp from 'sharp'
import { type Contestant, contestants } from '../../bench/contestants.ts'
import { race } from '../../bench/race.ts'
import { markdown } from '../../bench/report.ts'
import type { Results } from '../../bench/results.ts'
import type { Target } from '../../bench/targets.ts'
import { BUNDLE } from '../helpers/bundle.ts'

test('one short round measures the service and the baseline, which give the same tokens', async (t) => {
  const out = await mkdtemp(join(tmpdir(), 'bench-test-'))
  t.after(() => rm(out, { recursive: true }))
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...['bench/run.ts', '--contestants', 'service,baseline', '--loads', 'encode-crops', '--clients', '2'],
    ...['--rounds', '1', '--seconds', '1', '--out', out],
  ])
  const { targets, rows, baseline, stages, coldStarts, entries } = JSON.parse(
    await readFile(join(out, 'results.json'), 'utf8'),
  ) as Results & { targets: Target[] }
  assert.deepEqual(
    entries.map(({ name, agreement, failure }) => [name, agreement?.tokens, failure]),
    [
      ['baseline', 1, undefined],
      ['service', 1, undefined],
    ],
  )
  const [row] = rows
  assert.ok(rows.length === 1 && row?.images && row.cpuMsPerImage && row.memoryMiB && row.latencyMs.p99)
  assert.ok(row.health.asked > 0 && row.eventLoopMs !== null)
  assert.deepEqual(row.errors, {})
  assert.deepEqual(
    baseline.map(({ batch, inParts }) => [batch, inParts]),
    [1, 8, 16, 32, 64].map((batch) => [batch, true]),
  )
  assert.ok(baseline.every(({ imagesPerSecond, cpuMsPerImage }) => imagesPerSecond > 0 && cpuMsPerImage > 0))
  assert.ok(stages.every(({ milliseconds }) => (milliseconds[32] ?? 0) < (milliseconds[128] ?? 0)))
  assert.ok(coldStarts.every(({ seconds }) => seconds > 0) && coldStarts.length === 1)
  assert.ok(targets.some(({ what, measured }) => what.startsWith('MoCET') && measured !== undefined))
  assert.match(stdout, /MoCET .* \| (met|\*\*not met\*\*) \|/)
  assert.match(await readFile(join(out, 'results.md'), 'utf8'), /\| this service \| 2 \| \d/)
  assert.match(await readFile(join(out, 'plot.svg'), 'utf8'), /^<svg[\s\S]*this service[\s\S]*<\/svg>$/)
})

test('a contestant that does not start or gives wrong tokens is in the results with the reason', async () => {
  const service = contestants.find(({ name }) => name === 'service') as Contestant
  const scripted = (name: string, script: string): Contestant => ({
    ...{ name, title: name },
    command: ({ port }) => [process.execPath, '-e', script, `${port}`],
  })
  const gray = { create: { width: 128, height: 128, channels: 3, background: '#808080' } } as const
  const picture = (await sharp(gray).png().toBuffer()).toString('base64')
  const results = await race({
    ...{ service, model: BUNDLE, cores: 2, imageSize: 128, baseline: false, say: () => {} },
    ...{ loads: ['encode-crops'], clients: [1], rounds: 1, seconds: 1 },
    contestants: [
      scripted('broken', "console.error('no such library'); process.exit(3)"),
      scripted(
        'wrong',
        `require('node:http').createServer((request, response) => {
          const tokens = JSON.stringify({ tokens: [Array(128).fill(7)] })
          const picture = Buffer.from('${picture}', 'base64')
          request.resume().on('end', () => response.end(request.url === '/decode' ? picture : tokens))
        }).listen(process.argv[1])`,
      ),
    ],
  })
  const [broken, wrong] = results.entries
  assert.equal(broken?.failure, 'ended with exit code 3: no such library')
  assert.match(wrong?.failure ?? '', /disqualified.* \d+\.\d+ % of its tokens/)
  assert.deepEqual(results.rows, [])
  const page = markdown({ machine: {}, ...results })
  assert.match(page, /\| broken \| .*\*\*not run\*\*.*no such library/)
})
