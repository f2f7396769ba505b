#!/usr/bin/env bash
# Pillow's convert('RGB') scales 16-bit colour to 8 bits but clips 16-bit grey, so nearly all of it becomes white.
#
# Expected: the same level in a grey and in a colour file gives the same RGB value.
# Seen:     a 16-bit RGB PNG is scaled on opening (level 16384 becomes 64). A 16-bit grey PNG opens as mode I;16, and
#           convert('RGB') clips it: everything from 255 of 65535 upwards becomes 255. No warning.
# Hurts:    Image.open(path).convert('RGB'), the first line of most image data sets: X-ray, depth and microscopy pictures reach the
#           model as white squares, while the 16-bit colour pictures beside them are right.
# Versions: Pillow 12.3.0, Python 3.10 or later.
# Output:   level 200: grey 200, colour 0    level 16384: grey 255, colour 64    level 65535: grey 255, colour 255
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check Pillow==12.3.0

cat >"$dir/check.py" <<'EOF'
import io
import struct
import sys
import warnings
import zlib

import PIL
from PIL import Image

warnings.simplefilter("error")
print(f"Pillow {PIL.__version__}, Python {sys.version.split()[0]}")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(level: int, samples: int) -> io.BytesIO:
    """A 16-bit PNG of one pixel, grey (1 sample) or RGB (3 samples)."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, {1: 0, 3: 2}[samples], 0, 0, 0)
    row = b"\0" + struct.pack(">H", level) * samples
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


for level, recorded in {200: (200, 0), 1000: (255, 3), 16384: (255, 64), 65535: (255, 255)}.items():
    images = Image.open(png(level, 1)), Image.open(png(level, 3))
    assert [image.mode for image in images] == ["I;16", "RGB"]
    grey, colour = (image.convert("RGB").getpixel((0, 0)) for image in images)
    print(f"level {level}: grey {grey}, colour {colour}")
    assert grey == (recorded[0],) * 3
    assert colour == (recorded[1],) * 3
EOF
"$dir/venv/bin/python" "$dir/check.py"
