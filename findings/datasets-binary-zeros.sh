#!/usr/bin/env bash
# Hugging Face datasets cuts zero bytes off the end of binary values in the numpy format.
#
# Expected: a binary column gives back the bytes that were stored.
# Seen:     with_format("numpy") returns numpy.bytes_ objects, which lose every zero byte at their end. Without a format the bytes
#           are whole.
# Hurts:    token sequences stored as the bytes of uint16. Little-endian, the last byte is zero for every last id under 256, so
#           such rows have an odd number of bytes; a row that ends in id 0 comes back as a shorter, valid sequence.
# Versions: datasets 5.0.1, pyarrow 25.0.1, numpy 2.4.6, Python 3.11 or later.
# Output:   ids 1 2 3 300: 8 bytes    1 2 3 4: 7 bytes    1 2 0 512: 8 bytes    1 512 0 0: 4 bytes, read as ids 1 512
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.0.1 pyarrow==25.0.1 numpy==2.4.6

cat >"$dir/check.py" <<'EOF'
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
print(f"datasets {datasets.__version__}, pyarrow {pa.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}")

sequences = [[1, 2, 3, 300], [1, 2, 3, 4], [1, 2, 0, 512], [1, 512, 0, 0]]
stored = [np.array(ids, dtype="<u2").tobytes() for ids in sequences]
path = f"{sys.argv[1]}/tokens.parquet"
pq.write_table(pa.table({"tokens": pa.array(stored, pa.binary())}), path)
rows = datasets.Dataset.from_parquet(path, cache_dir=sys.argv[1])
assert [row["tokens"] for row in rows] == stored

arrays = [row["tokens"] for row in rows.with_format("numpy")]
for ids, value in zip(sequences, arrays):
    read = np.frombuffer(value, "<u2").tolist() if len(value) % 2 == 0 else "an odd number of bytes"
    print(f"ids {ids}: {len(value)} bytes, {read}")
assert [len(value) for value in arrays] == [8, 7, 8, 4]
assert [bytes(value) for value in arrays] == [value.rstrip(b"\0") for value in stored]
EOF
HF_HUB_OFFLINE=1 HF_HOME="$dir/cache" "$dir/venv/bin/python" "$dir/check.py" "$dir"
