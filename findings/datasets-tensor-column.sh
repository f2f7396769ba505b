#!/usr/bin/env bash
# Hugging Face datasets cannot open a Parquet file that has a tensor column of Arrow's own kind.
#
# Expected: arrow.fixed_shape_tensor is one of Arrow's canonical extension types, meant for arrays of one shape. A reader that does
#           not know it may fall back to its storage, a fixed-size list.
# Seen:     datasets raises ValueError for the whole file, whatever the other columns are, and also where only another column is
#           asked for. The same values as a plain fixed-size list load, with the length kept.
# Hurts:    people who write token grids or codes as tensors with pyarrow, the type that fits them best, and publish the files.
# Versions: datasets 5.0.1, pyarrow 25.0.1, numpy 2.4.6, Python 3.11 or later.
# Output:   list: List(Value('uint16'), length=4)
#           tensor: ValueError, "... does not have a datasets dtype equivalent."
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.0.1 pyarrow==25.0.1 numpy==2.4.6

cat >"$dir/check.py" <<'EOF'
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
print(f"datasets {datasets.__version__}, pyarrow {pa.__version__}, Python {sys.version.split()[0]}")

folder = sys.argv[1]
values = pa.array([[1, 2, 3, 4], [5, 6, 7, 8]], pa.list_(pa.uint16(), 4))
tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint16(), [2, 2]), values)
for name, column in {"list": values, "tensor": tensor}.items():
    pq.write_table(pa.table({"label": [0, 1], "tokens": column}), f"{folder}/{name}.parquet")

# pyarrow itself reads back what it wrote.
assert pq.read_table(f"{folder}/tensor.parquet")["tokens"].type == tensor.type

features = datasets.Dataset.from_parquet(f"{folder}/list.parquet", cache_dir=folder).features
print("list:", features["tokens"])
assert features["tokens"] == datasets.List(datasets.Value("uint16"), length=4)

for columns in (None, ["label"]):
    try:
        datasets.Dataset.from_parquet(f"{folder}/tensor.parquet", cache_dir=folder, columns=columns)
    except ValueError as error:
        print(f"tensor, columns {columns}: ValueError, {error}")
        assert "does not have a datasets dtype equivalent" in str(error)
    else:
        sys.exit(f"tensor, columns {columns}: loaded")
EOF
HF_HUB_OFFLINE=1 HF_HOME="$dir/cache" "$dir/venv/bin/python" "$dir/check.py" "$dir"
