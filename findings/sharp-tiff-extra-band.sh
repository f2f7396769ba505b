#!/usr/bin/env bash
# sharp takes the near-infrared band of an aerial photo for transparency.
#
# Expected: a TIFF says what its fourth band is. ExtraSamples 0 means "unspecified data", 1 and 2 mean alpha. So flatten() leaves
#           the colours of a file with ExtraSamples 0 alone.
# Seen:     ExtraSamples 0 is treated exactly as 2 (unassociated alpha): metadata() says hasAlpha, and flatten() mixes every pixel
#           with the background, in proportion to the other band.
# Hurts:    red-green-blue-near-infrared imagery, which is stored this way: where little infrared comes back (water, roads), the
#           picture turns white before a model sees it.
# Versions: sharp 0.35.5 (libvips 8.18.7, libtiff 4.7.2), Node 20 or later.
# Output:   ExtraSamples 0: hasAlpha true, flattened 241 206 201 (the pixel is 200 60 40, the fourth band 64)
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$dir" sharp@0.35.5

cat >"$dir/check.mjs" <<'EOF'
import assert from 'node:assert/strict'
import sharp from 'sharp'

console.log(`sharp ${sharp.versions.sharp}, libvips ${sharp.versions.vips}, libtiff ${sharp.versions.tiff}, Node ${process.version}`)

const SHORT = 3
const LONG = 4

/** A little-endian TIFF of one uncompressed pixel with four 8-bit samples, RGB and one more. */
function tiff(pixel, extraSamples) {
  const count = 10
  const depths = 8 + 2 + count * 12 + 4
  const strip = depths + 8
  const tags = [
    [256, LONG, 1, 1], // width
    [257, LONG, 1, 1], // height
    [258, SHORT, 4, depths], // bits per sample
    [259, SHORT, 1, 1], // no compression
    [262, SHORT, 1, 2], // RGB
    [273, LONG, 1, strip], // where the strip starts
    [277, SHORT, 1, 4], // samples per pixel
    [278, LONG, 1, 1], // rows per strip
    [279, LONG, 1, 4], // bytes of the strip
    [338, SHORT, 1, extraSamples],
  ]
  const bytes = Buffer.alloc(strip + 4)
  bytes.write('II*\0', 'latin1')
  bytes.writeUInt32LE(8, 4)
  bytes.writeUInt16LE(count, 8)
  tags.forEach(([tag, type, length, value], i) => {
    const at = 10 + i * 12
    bytes.writeUInt16LE(tag, at)
    bytes.writeUInt16LE(type, at + 2)
    bytes.writeUInt32LE(length, at + 4)
    bytes.writeUInt32LE(value, at + 8)
  })
  for (let i = 0; i < 4; i++) bytes.writeUInt16LE(8, depths + 2 * i)
  Buffer.from(pixel).copy(bytes, strip)
  return bytes
}

for (const [extraSamples, meaning] of [[0, 'unspecified'], [2, 'alpha']]) {
  const file = tiff([200, 60, 40, 64], extraSamples)
  const { hasAlpha } = await sharp(file).metadata()
  const flattened = [...(await sharp(file).flatten({ background: 'white' }).raw().toBuffer())]
  console.log(`ExtraSamples ${extraSamples} (${meaning}): hasAlpha ${hasAlpha}, flattened ${flattened.join(' ')}`)
  assert.equal(hasAlpha, true)
  assert.deepEqual(flattened, [241, 206, 201])
}
EOF
node "$dir/check.mjs"
