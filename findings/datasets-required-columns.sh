#!/usr/bin/env bash
# Hugging Face datasets forgets class names of a Parquet column that is declared as never null.
#
# Expected: class names, stored in the file's metadata under the key `huggingface`, come back as a ClassLabel whether or not the
#           column may hold nulls. "Required" is the stricter promise, and the default of many writers outside Arrow.
# Seen:     the names come back if the column is optional. If it is required, the metadata is dropped without a warning: the
#           feature is a plain int64. The two files hold the same values and the same metadata.
# Hurts:    people who write labelled data sets with other tools and set the metadata by hand: names are lost for every reader.
# Versions: datasets 5.0.1, pyarrow 25.0.1, Python 3.11 or later.
# Output:   optional: ClassLabel(names=['cat', 'dog'])
#           required: Value('int64')
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.0.1 pyarrow==25.0.1

cat >"$dir/check.py" <<'PYTHON'
import json
import sys
import warnings

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
warnings.simplefilter("error")
print(f"datasets {datasets.__version__}, pyarrow {pa.__version__}, Python {sys.version.split()[0]}")

folder = sys.argv[1]
names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
seen = {}
for word, nullable in (("optional", True), ("required", False)):
    field = pa.field("label", pa.int64(), nullable=nullable)
    schema = pa.schema([field], metadata={"huggingface": json.dumps(names)})
    pq.write_table(pa.table({"label": [0, 1, 1]}, schema=schema), f"{folder}/{word}.parquet")

    # pyarrow reads both back as they were written, metadata included.
    again = pq.read_schema(f"{folder}/{word}.parquet")
    assert again.field("label").nullable == nullable
    assert json.loads(again.metadata[b"huggingface"]) == names

    loaded = datasets.Dataset.from_parquet(f"{folder}/{word}.parquet", cache_dir=folder)
    assert loaded[:] == {"label": [0, 1, 1]}
    seen[word] = loaded.features["label"]
    print(f"{word}: {seen[word]}")
assert seen["optional"] == datasets.ClassLabel(names=["cat", "dog"])
assert seen["required"] == datasets.Value("int64")
PYTHON
HF_HUB_OFFLINE=1 HF_HOME="$dir/cache" "$dir/venv/bin/python" "$dir/check.py" "$dir"
