#!/usr/bin/env bash
# sharp turns a 16-bit RGB picture that has an ICC profile into Display P3 values, and does not say so.
#
# Expected: pixels come out as sRGB. That is what happens to 8-bit files with a profile, and to 16-bit files without one.
# Seen:     a 16-bit RGB PNG with an sRGB profile comes out in the coordinates of Display P3, duller than it was, even after
#           toColourspace('srgb'). One with a Display P3 profile comes out unconverted. A PNG written from it has no profile,
#           so whoever reads it takes the values for sRGB.
# Hurts:    image pipelines that feed models from 16-bit PNG exports of photo editors: colours are off by up to 15
#           levels here, without a warning, and only for these files.
# Versions: sharp 0.35.5 (libvips 8.18.7), Node 20.15 or later.
# Output:   srgb, 8 bits: 200 60 40    srgb, 16 bits: 185 71 50    p3, 8 bits: 217 42 24    p3, 16 bits: 200 60 40
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$dir" sharp@0.35.5

cat >"$dir/check.mjs" <<'EOF'
import assert from 'node:assert/strict'
import zlib from 'node:zlib'
import sharp from 'sharp'

console.log(`sharp ${sharp.versions.sharp}, libvips ${sharp.versions.vips}, Node ${process.version}`)

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const bytes = Buffer.alloc(body.length + 8)
  bytes.writeUInt32BE(data.length)
  body.copy(bytes, 4)
  bytes.writeUInt32BE(zlib.crc32(body), bytes.length - 4)
  return bytes
}

/** A PNG of one RGB pixel. 16-bit samples repeat the byte, which is the same level exactly. */
function png(bits, pixel, profile) {
  const row = [0, ...(bits === 16 ? pixel.flatMap((level) => [level, level]) : pixel)]
  return Buffer.concat([
    Buffer.from('89504e470d0a1a0a', 'hex'),
    chunk('IHDR', Buffer.from([0, 0, 0, 1, 0, 0, 0, 1, bits, 2, 0, 0, 0])),
    ...(profile ? [chunk('iCCP', Buffer.concat([Buffer.from('icc\0\0'), zlib.deflateSync(profile)]))] : []),
    chunk('IDAT', zlib.deflateSync(Buffer.from(row))),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

/** The ICC profile that sharp ships under a name. */
async function profileOf(name) {
  const file = await sharp(png(8, [0, 0, 0])).withIccProfile(name).png().toBuffer()
  return (await sharp(file).metadata()).icc
}

const seen = {
  none: { 8: [200, 60, 40], 16: [200, 60, 40] },
  srgb: { 8: [200, 60, 40], 16: [185, 71, 50] },
  p3: { 8: [217, 42, 24], 16: [200, 60, 40] },
}
for (const [name, outputs] of Object.entries(seen)) {
  const profile = name === 'none' ? undefined : await profileOf(name)
  for (const [bits, recorded] of Object.entries(outputs)) {
    const file = png(Number(bits), [200, 60, 40], profile)
    const raw = [...(await sharp(file).toColourspace('srgb').raw().toBuffer())]
    const written = await sharp(file).png().toBuffer()
    console.log(`profile ${name}, ${bits} bits: ${raw.join(' ')}`)
    assert.deepEqual(raw, recorded)
    assert.deepEqual([...(await sharp(written).raw().toBuffer())], recorded)
    assert.equal((await sharp(written).metadata()).icc, undefined)
  }
}
EOF
node "$dir/check.mjs"
