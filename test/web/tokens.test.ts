import assert from 'node:assert/strict'
import { test } from 'node:test'
import { integers, parseNpy } from '../../src/formats/npy.ts'
import { bytesOf, fromFragment, pack, ShareError, snippet, toFragment, toNpy, unpack } from '../../web/src/tokens.ts'

const model = '51e7b9ac1764c381867dba7b0253f6a33835a45978fad917b91ef5d0acd0f572'
const space = { model, length: 128, codebookSize: 4096 }
const tokens = Array.from({ length: 128 }, (_, i) => (i * 2741 + 4095) % 4096)

test('tokens take as many bits as their codebook needs', () => {
  assert.equal(bytesOf(128, 4096), 192)
  assert.equal(bytesOf(1, 4096), 2)
  assert.equal(bytesOf(3, 4097), 5)
  assert.deepEqual([...pack([0xabc, 0xdef], 12)], [0xab, 0xcd, 0xef])
  assert.deepEqual([...pack([0xfff], 12)], [0xff, 0xf0])
  for (const bits of [1, 7, 8, 12, 13, 16]) {
    const ids = tokens.map((id) => id % 2 ** bits)
    assert.deepEqual(unpack(pack(ids, bits), ids.length, bits), ids, `${bits} bits`)
  }
})

test('a link restores tokens exactly', () => {
  for (const length of [1, 2, 3, 127, 128]) {
    const shared = { tokens: tokens.slice(0, length), shown: Math.ceil(length / 2), photo: 'cat.jpg' }
    const fragment = toFragment(shared, space)
    assert.ok(fragment.length < 330, fragment)
    // As a URL encodes a fragment.
    assert.deepEqual(fromFragment(new URL(`http://localhost/#${fragment}`).hash, space), shared)
  }
  const { photo, ...bare } = { tokens, shown: 128, photo: undefined }
  assert.deepEqual(fromFragment(toFragment(bare, space), space), bare)
})

test('a link that cannot be shown gives the reason', () => {
  const fragment = toFragment({ tokens, shown: 3 }, space)
  assert.equal(fromFragment('', space), undefined)
  assert.equal(fromFragment('#somewhere', space), undefined)
  const refused = (text: string, message: RegExp, where = space) => {
    assert.throws(() => fromFragment(text, where), { message })
    assert.throws(() => fromFragment(text, where), ShareError)
  }
  refused(fragment, /another model/, { ...space, model: 'f'.repeat(64) })
  refused(fragment, /damaged/, { ...space, length: 64 })
  refused(fragment.slice(0, -3), /damaged/)
  refused(fragment.replace('t=', 't=*'), /damaged/)
  for (const n of ['127', '0', '-1', 'x', '1e9']) refused(fragment.replace('n=128', `n=${n}`), /damaged/)
  refused(fragment, /codebook/, { ...space, codebookSize: 4000 })
  // An invalid number of shown tokens does not invalidate the link.
  assert.equal(fromFragment(fragment.replace('k=3', 'k=900'), space)?.shown, 128)
})

test('the NumPy file is valid', () => {
  for (const length of [1, 32, 128]) {
    const array = parseNpy(Buffer.from(toNpy(tokens.slice(0, length))))
    assert.deepEqual([array.dtype, array.shape], ['u2', [length]])
    assert.deepEqual(integers(array), tokens.slice(0, length))
    assert.equal((toNpy(tokens).length - 2 * 128) % 64, 0)
  }
})

test('snippets carry the tokens and never a key', () => {
  const where = { base: 'http://localhost:8080/', model, keyed: false }
  assert.deepEqual(JSON.parse(snippet('json', tokens, where)), { model, length: 128, tokens: [tokens] })
  assert.match(snippet('numpy', [1, 2], where), /^tokens = np\.array\(\[1, 2\], dtype=np\.uint16\)$/m)
  const curl = snippet('curl', [1, 2], where)
  assert.match(curl, /-d '\{"tokens": \[1, 2\]\}' 'http:\/\/localhost:8080\/decode\?model=51e7/)
  assert.doesNotMatch(curl, /x-api-key/)
  assert.match(snippet('curl', [1, 2], { ...where, keyed: true }), /-H "x-api-key: \$NATIVETOK_API_KEY"/)
})
