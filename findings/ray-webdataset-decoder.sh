#!/usr/bin/env bash
# Ray Data's read_webdataset decodes with decoder=False as it does with True, and takes .jpg for an image but not .jpeg.
#
# Expected: decoder may be a bool, so False leaves every field as the bytes of its file. With True, photos are photos whichever of
#           JPEG's two suffixes they have.
# Seen:     False decodes just like True: .jpg comes as an array, .cls as an int. Only None leaves bytes. Where it decodes, .jpeg stays
#           bytes, so a set with both suffixes has arrays in one column and bytes in the other.
# Hurts:    who passes files on as they are, to another decoder, a service or other shards: pixels come instead, without a message.
# Versions: ray 2.58.0, pyarrow 25.0.1, numpy 2.4.6, pandas 3.0.6, pillow 12.3.0, Python 3.11 or later.
# Output:   True:  cls int    jpg ndarray  jpeg bytes
#           False: cls int    jpg ndarray  jpeg bytes
#           None:  cls bytes  jpg bytes    jpeg bytes
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.58.0' pyarrow==25.0.1 numpy==2.4.6 pandas==3.0.6 pillow==12.3.0

cat >"$dir/check.py" <<'EOF'
import io
import sys
import tarfile

import pyarrow as pa
import ray
import ray.data
from PIL import Image

print(f"ray {ray.__version__}, pyarrow {pa.__version__}, Python {sys.version.split()[0]}")
photo = io.BytesIO()
Image.linear_gradient("L").convert("RGB").save(photo, "JPEG")
path = f"{sys.argv[1]}/photos.tar"
with tarfile.open(path, "w") as tar:
    for name, content in {"a.cls": b"7", "a.jpg": photo.getvalue(), "a.jpeg": photo.getvalue()}.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
decoded = {"cls": "int", "jpg": "ndarray", "jpeg": "bytes"}
raw = {"cls": "bytes", "jpg": "bytes", "jpeg": "bytes"}
for decoder, expected in {True: decoded, False: decoded, None: raw}.items():
    (sample,) = ray.data.read_webdataset(path, decoder=decoder).take_all()
    kinds = {field: type(sample[field]).__name__ for field in expected}
    print(f"{decoder}: {kinds}")
    assert kinds == expected
EOF
"$dir/venv/bin/python" "$dir/check.py" "$dir" 2>"$dir/said" || { tail -n 20 "$dir/said" >&2; exit 1; }
