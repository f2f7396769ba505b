#!/usr/bin/env bash
# ONNX Runtime copies convolution weights although pre-packing is off and the weights lie in a mapped file.
#
# Expected: with external weights, which are mapped into memory, and session.disable_prepacking = 1, a session keeps no private copy
#           of them, so that several processes on a host share one copy.
# Seen:     true with the optimisation level "extended". With "all", the default, a session on the CPU holds private memory of more
#           than twice the size of the weights: that level moves convolutions to a blocked layout and keeps reordered weights,
#           which the option does not prevent.
# Hurts:    servers that run several processes on the same large convolutional model, an image decoder for example.
# Versions: onnxruntime 1.30.0, onnx 1.23.1, numpy 2.4.6, Python 3.11 or later; Linux on x86-64 (the blocked layout needs AVX).
# Output:   54 MiB of weights; extended: 8 MiB private    all: 134 MiB private
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.30.0 onnx==1.23.1 numpy==2.4.6

cat >"$dir/model.py" <<'EOF'
"""Writes six 3x3 convolutions of 512 channels, their weights in a file beside the graph."""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

channels, layers = 512, 6
random = np.random.default_rng(0)
nodes, weights = [], []
for i in range(layers):
    values = random.normal(0, 0.01, (channels, channels, 3, 3)).astype(np.float32)
    weights.append(numpy_helper.from_array(values, f"w{i}"))
    nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], kernel_shape=[3, 3], pads=[1] * 4))
ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, channels, 8, 8]) for i in (0, layers)]
graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
onnx.save_model(model, sys.argv[1], save_as_external_data=True, location="weights.data")
EOF

cat >"$dir/measure.py" <<'EOF'
"""Prints the private memory, in MiB, that a session takes at one optimisation level."""
import re
import sys
from pathlib import Path

import onnxruntime as ort


def private() -> int:
    return int(re.search(r"Private_Dirty:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1])


options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, sys.argv[2])
options.add_session_config_entry("session.disable_prepacking", "1")
before = private()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print((private() - before) // 1024)
EOF

python=$dir/venv/bin/python
"$python" -c 'import onnxruntime, platform; print("onnxruntime", onnxruntime.__version__, "Python", platform.python_version())'
"$python" "$dir/model.py" "$dir/model.onnx"
weights=$(($(stat -c %s "$dir/weights.data") / 1024 / 1024))
extended=$("$python" "$dir/measure.py" "$dir/model.onnx" ORT_ENABLE_EXTENDED)
all=$("$python" "$dir/measure.py" "$dir/model.onnx" ORT_ENABLE_ALL)
echo "$weights MiB of weights; private memory of a session: extended $extended MiB, all $all MiB"
if ((extended * 5 > weights || all < weights)); then
  echo 'not what was recorded' >&2
  exit 1
fi
