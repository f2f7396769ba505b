import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLog, type LogFormat } from '../../src/observability/log.ts'

function written(format: LogFormat) {
  const lines: string[] = []
  const destination = { write: (line: string) => void lines.push(line) }
  return { log: createLog({ level: 'info', format, destination }), lines }
}

test('text has one line per event, with its fields', () => {
  const { log, lines } = written('text')
  log.info({ url: '/encode?length=8', status: 200, images: 2, model: 'ab'.repeat(32) }, 'answered')
  log.error({ err: new Error('it broke\nin two') }, 'failed')
  log.info({ name: 'two words' }, 'serving')
  log.debug('unheard')
  assert.equal(lines.length, 3)
  assert.match(
    lines[0] ?? '',
    /^\d\d:\d\d:\d\d info {2}answered url=\/encode\?length=8 status=200 images=2 model=abababababab\n$/,
  )
  assert.match(lines[1] ?? '', /^\S+ error failed err="it broke\\nin two"\n$/)
  assert.match(lines[2] ?? '', / serving name="two words"\n$/)
})

test('a command to paste is on its own line', () => {
  const { log, lines } = written('text')
  log.info("try: curl -F images=@cat.jpg 'http://localhost:8080/encode'")
  assert.ok(lines.join('').split('\n').includes("    curl -F images=@cat.jpg 'http://localhost:8080/encode'"))
})

test('json is for programs, and no header gets into either', () => {
  for (const format of ['json', 'text'] as const) {
    const { log, lines } = written(format)
    log.info({ headers: { 'x-api-key': 'secret' }, req: { headers: { 'x-api-key': 'secret' } } }, 'answered')
    assert.doesNotMatch(lines.join(''), /secret/)
    if (format === 'json') assert.equal(JSON.parse(lines[0] ?? '').msg, 'answered')
  }
})
