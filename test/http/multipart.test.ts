import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { MultipartError, splitParts } from '../../src/http/multipart.ts'

const disposition = 'Content-Disposition: form-data; name="images"; filename="a"'
/** A part with content that looks a little like a delimiter. */
const part = (content: string, headers = disposition) => `${headers}\r\n\r\n${content}`
const split = (body: string, type = 'multipart/form-data; boundary=X') =>
  splitParts(type, Buffer.from(body, 'latin1'), () => {}).map(({ bytes }) => bytes.toString('latin1'))
const two = (first: string, last = '--X--\r\n') => `${first}\r\n${part('a')}\r\n--X\r\n${part('b')}\r\n${last}`

test('as many parts as delimiters begin, whatever surrounds them', () => {
  const bodies = [
    two('--X'),
    two('--X \t '),
    `--X\r\n${part('a')}\r\n--X ${' '.repeat(100)}\r\n${part('b')}\r\n--X-- \t\r\n`,
    two('a preamble\r\n--X'),
    two('\r\n--X'),
    two('--X', '--X--'),
    two('--X', '--X--\n'),
    two('--X', '--X--\r\nan epilogue\r\n-- X\r\n'),
  ]
  for (const body of bodies) assert.deepEqual(split(body), ['a', 'b'], JSON.stringify(body))
})

test('a boundary is read as it is quoted', () => {
  const body = two('--X')
  const types = [
    'boundary="X"',
    'Boundary=X ',
    'charset=utf-8 ; boundary=X; other="a;boundary=Y"',
    'boundary=X;',
    'boundary="\\X"',
  ]
  for (const type of types) assert.deepEqual(split(body, `multipart/form-data; ${type}`), ['a', 'b'], type)
  // Not allowed without quotes, and sent by Java's mail library.
  const mail = '----=_Part_1_2.3'
  assert.deepEqual(split(`--${mail}\r\n${part('a')}\r\n--${mail}--`, `multipart/form-data; boundary=${mail}`), ['a'])
})

test('what two readers could split differently is refused', () => {
  const refused: [string, RegExp][] = [
    ['', /there is no line "--X"/],
    ['garbage', /there is no line/],
    [`--X\r\n${part('a')}`, /cut off/],
    [`--X\r\n${part('a')}\r\n--X`, /does not end there/],
    [`--X\r\n${part('a')}\r\n--X\r\n`, /cut off/],
    [two('--X').replaceAll('\r\n', '\n'), /CR and LF/],
    [`--X\r\n${part('a\n--X\nb')}\r\n--X--`, /CR and LF/],
    [`--X\r\n${part('a\r--X\rb')}\r\n--X--`, /CR and LF/],
    [`--X\r\n${part('a')}\r\n--Xy\r\n${part('b')}\r\n--X--`, /does not end there/],
    [`--X\r\n${part('a')}\r\n--X-y\r\n${part('b')}\r\n--X--`, /does not end there/],
    [`--X\r\n${part('a')}\r\n--X--b\r\n`, /does not end there/],
    [`${two('--X')}--X\r\n${part('c')}\r\n--X--\r\n`, /after its end/],
    ['--X\r\n--X--\r\n', /part 0 has no empty line/],
    [`--X\r\n${part('a', 'Content-Type: image/png')}\r\n--X--`, /part 0 has no Content-Disposition/],
    [`--X\r\n\r\na\r\n--X--`, /part 0 has no empty line/],
    [`--X\r\n\r\na\r\n\r\n\r\n--X--`, /part 0 has a header line that is malformed/],
    [`--X\r\n${part('a', 'Content-Disposition: attachment; name="a"')}\r\n--X--`, /part 0 is not form-data/],
    [
      `--X\r\n${part('a', `${disposition}\r\n${disposition}`)}\r\n--X--`,
      /part 0 has more than one Content-Disposition/,
    ],
    [`--X\r\n${part('a', `${disposition}\r\n folded`)}\r\n--X--`, /header line that is malformed/],
    [`--X\r\n${part('a', `${disposition}\nX: y`)}\r\n--X--`, /header line that is malformed/],
    [
      `--X\r\n${part('a', `${disposition}\r\nContent-Transfer-Encoding: base64`)}\r\n--X--`,
      /base64; send it as binary/,
    ],
    [
      `--X\r\n${part('a', `${disposition}\r\nContent-Type: multipart/mixed; boundary=Y`)}\r\n--X--`,
      /multipart\/mixed itself/,
    ],
  ]
  for (const [body, message] of refused) {
    assert.throws(() => split(body), { constructor: MultipartError, message }, JSON.stringify(body))
  }
  for (const type of [
    '',
    '; boundary=',
    '; boundary=""',
    '; boundary="X "',
    '; boundary=X; boundary=Y',
    '; boundary=X Y',
  ]) {
    assert.throws(() => split(two('--X'), `multipart/form-data${type}`), MultipartError, type)
  }
})

test('whoever sends parts by the book gets them back, whatever is in them', () => {
  const content = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes))
  const nearly = fc
    .constantFrom('\r\n--boundar', 'x--boundary1', '\r\n\r\n', '\r\n-', '-')
    .map((text) => Buffer.from(text))
  const contents = fc.array(
    fc.array(fc.oneof(content, nearly)).map((pieces) => Buffer.concat(pieces)),
    { minLength: 1 },
  )
  fc.assert(
    fc.property(contents, fc.constantFrom('', ' ', '\t  '), (parts, padding) => {
      const body = parts.flatMap((bytes) => [
        Buffer.from(`--boundary1${padding}\r\n${disposition}\r\n\r\n`),
        bytes,
        Buffer.from('\r\n'),
      ])
      const type = 'multipart/form-data; boundary=boundary1'
      const counts: number[] = []
      const found = splitParts(type, Buffer.concat([...body, Buffer.from('--boundary1--')]), (count) =>
        counts.push(count),
      )
      assert.deepEqual(
        found.map(({ bytes }) => bytes),
        parts,
      )
      assert.deepEqual(
        counts,
        parts.map((_, index) => index + 1),
      )
    }),
  )
})
