"""ONNX graphs of the causal loop, one a training stage, its experts unrolled.

The nodes are written directly: PyTorch's exporter takes over a minute to trace 32 experts. An expert is a few small
products, so the number of its nodes counts, at run time and when a graph is loaded: sums are folded into the products
before them, and what no image changes is computed here. Large weights stay stacked and fp16 in the file; ONNX Runtime
casts, multiplies and splits them once, when it loads the graph.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from nativetok.model import CrossExperts, NativeTok

# Appends the nodes of one expert's part: its number in the stage and its input's name to its output's name.
ExpertGraph = Callable[[int, str], str]
# The same of a whole expert, which also reads what the codes before tell of its own.
CodeGraph = Callable[[int, str, str], str]
# Appends x @ weight + addend.
ProductGraph = Callable[[str, str, str], str]

OPSET = 24  # the first with TensorScatter
ROWS_AT_ONCE = 16
"""Rows by which the memory grows: growing copies it, and experts read all rows, also those not yet written."""
UNSEEN = -1e4
"""Added to the scores of rows not yet written, it leaves nothing of them."""
SMALLEST_HALF = 2**15
"""Elements from which on a weight is stored as fp16."""
IR_VERSION = 11


def mocet_graph(model: NativeTok, stage: int) -> onnx.ModelProto:
    """A stage's experts: latents float32 [B, N, D] (and prefix int32 [B, start]) to tokens int32 [B, n].

    `cross` experts take their absorbed form: keys and values never exist (see `CrossExperts`).
    """
    return _StageGraph(model, stage).build()


class _StageGraph:
    def __init__(self, model: NativeTok, stage: int) -> None:
        self.config = model.config
        experts = model.mocet.experts[stage]
        self.experts, self.count = experts, experts.end - experts.start
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.shapes: dict[tuple[int, ...], str] = {}
        self.names = 0
        self.d, self.heads = self.config.expert_width, self.config.expert_heads
        codebook = model.quantiser.codebook.numpy()
        embedding = model.mocet.token_embedding
        self.entries = self.weight(codebook)
        projected = self.node("MatMul", self.entries, self.weight(embedding.weight.detach().numpy().T))
        self.embedded_entries = self.node("Add", projected, self.weight(embedding.bias.detach().numpy()))
        self.codebook_columns = self.node("Transpose", self.entries, perm=[1, 0])
        self.all_positions = [row for s in model.mocet.experts for row in s.position.detach().numpy()]

    def build(self) -> onnx.ModelProto:
        start, n, width = self.experts.start, self.count, self.config.code_width
        inputs = [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["B", self.config.latents, self.d])]
        batch = self.node("Shape", "latents", start=0, end=1)
        memory = "latents"
        heard, told_before, told_by = self._told()
        if start:
            inputs.append(helper.make_tensor_value_info("prefix", TensorProto.INT32, ["B", start]))
            embedded = self.node("Gather", self.embedded_entries, "prefix", axis=0)
            positions = self.weight(np.stack(self.all_positions[:start]))
            memory = self.node("Concat", memory, self.node("Add", embedded, positions), axis=1)
            entries = self.node("Gather", self.entries, "prefix", axis=0)
            codes = self.node("Reshape", entries, self.shape(0, start * width))
            heard = self.gemm(codes, self.weight(told_before), heard)
        expert = self._cross() if isinstance(self.experts, CrossExperts) else self._self()
        tokens = []
        for i in range(n - 1):
            sizes = self.shape(width, (n - 1 - i) * width)
            mine, heard = self.outputs(2, "Split", heard, sizes, axis=1)
            tokens.append(self._nearest(expert(i, memory, mine)))
            memory = self._remember(i, memory, tokens[-1], batch)
            code = self.node("Reshape", self.node("Gather", self.entries, tokens[-1], axis=0), self.shape(0, width))
            heard = self.gemm(code, self.weight(told_by[i][:, (i + 1) * width :]), heard)
        tokens.append(self._nearest(expert(n - 1, memory, heard)))
        joined = self.node("Concat", *tokens, axis=1)
        self.nodes.append(helper.make_node("Cast", [joined], ["tokens"], to=TensorProto.INT32))
        output = helper.make_tensor_value_info("tokens", TensorProto.INT32, ["B", n])
        graph = helper.make_graph(self.nodes, "mocet", inputs, [output], self.initialisers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    # -- the memory that experts read [B, T, D]: latents, then tokens; its last rows may be yet to be written

    def _written(self, i: int) -> int:
        """Rows that are written when expert i reads the memory."""
        return self.config.latents + self.experts.start + i

    def _rows(self, i: int) -> int:
        """Rows that there are when expert i reads the memory; it grows by no more than the latents, which it holds."""
        step = min(ROWS_AT_ONCE, self.config.latents)
        return self._written(min(math.ceil(i / step) * step, self.count - 1))

    def _remember(self, i: int, memory: str, token: str, batch: str) -> str:
        """Write expert i's token [B, 1] into the memory, in place but for where it grows."""
        embedded = self.node("Gather", self.embedded_entries, token, axis=0)
        embedded = self.node("Add", embedded, self.weight(self.all_positions[self.experts.start + i]))
        more = self._rows(i + 1) - self._rows(i)
        if more:
            # whatever they hold is written over; taken from the memory, they keep the name of the batch's dimension,
            # and ONNX Runtime writes in place only where it knows by name that sizes are the same
            rows = self.node("Slice", memory, self.shape(0), self.shape(more), self.shape(1))
            memory = self.node("Concat", memory, rows, axis=1)
        row = self.node("Expand", self.shape(self._written(i)), batch)
        return self.node("TensorScatter", memory, embedded, row, axis=1)

    def _told(self) -> tuple[str, NDArray[np.float32], NDArray[np.float32]]:
        """What codes tell of later ones, as it is heard by all n experts at once: [B, n * C], added up token by token.

        Returns what is heard before any token (the codes' means, with which it is taken off), what the prefix adds
        [start * C, n * C] and what each of the stage's tokens but the last adds [n - 1, C, n * C].
        """
        start, n, width = self.experts.start, self.count, self.config.code_width
        deviation = self.experts.code_deviation.numpy()
        mean = self.weight((-self.experts.code_mean.numpy() / deviation).reshape(1, n * width))
        told = -self.array("told") / deviation[:, None]
        told = told.transpose(1, 0, 2).reshape(-1, n * width)
        told_by = told[start * width :].reshape(n - 1, width, n * width)
        return mean, told[: start * width], told_by

    # -- experts: from the memory [B, T, D] and what is heard [B, C] to a code [B, C]

    def _cross(self) -> CodeGraph:
        d, h, n = self.d, self.heads, self.count
        layers = []
        for layer in range(self.config.expert_depth):
            v = self._heads(f"{layer}_v", [0, 2, 1, 3])
            out = self.node("Reshape", self.stack(f"{layer}_out"), self.shape(n, h, d // h, d))
            v_out = self.split(self.node("MatMul", v, out), h * d, d)
            asking = self._first_queries() if layer == 0 else self._queries(layer)
            layers.append((asking, self.array(f"{layer}_where"), v_out, self._mlp(layer, self.gemm)))
        code = self._code()
        queries = self.experts.query.detach().numpy()

        def expert(i: int, memory: str, heard: str) -> str:
            x = self.weight(queries[i : i + 1])
            keys = self.node("Transpose", memory, perm=[0, 2, 1])
            for asking, where, v_out, mlp in layers:
                places = where[i, :, : self._rows(i)].copy()
                places[:, self._written(i) :] = UNSEEN
                scores = self.node("Add", self.node("MatMul", asking(i, x), keys), self.weight(places))
                mixture = self.node("MatMul", self.node("Softmax", scores, axis=-1), memory)  # [B, H, D]
                x = mlp(i, self.gemm(self.node("Reshape", mixture, self.shape(0, h * d)), v_out[i], x))
            return code(i, x, heard)

        return expert

    def _first_queries(self) -> ExpertGraph:
        """The first layer's attention queries [1, H, D]: constants, for nothing of the image has been read yet."""
        d, h, n = self.d, self.heads, self.count
        w = {name: weight.detach() for name, weight in self.experts.weights.items()}
        normed = F.layer_norm(self.experts.query.detach(), (d,)) * w["0_norm"]
        asking = (normed[:, None] @ w["0_q"]).view(n, h, 1, d // h)
        keys = w["0_k"].view(n, d, h, d // h).permute(0, 2, 3, 1)
        absorbed = ((asking @ keys) * (d // h) ** -0.5).view(n, 1, h, d).numpy()
        return lambda i, _: self.weight(absorbed[i])

    def _queries(self, layer: int) -> ExpertGraph:
        """A later layer's attention queries [B, H, D], the key projection absorbed into them."""
        d, h = self.d, self.heads
        q = self._heads(f"{layer}_q", [0, 2, 1, 3])  # [n, H, D, d/H]
        k = self._heads(f"{layer}_k", [0, 2, 3, 1])  # [n, H, d/H, D]
        scale = self.weight(np.array((d // h) ** -0.5))
        absorbed = self.node("Mul", self.node("MatMul", q, k), scale)  # [n, H, D, D]
        q_k = self.split(self.node("Transpose", absorbed, perm=[0, 2, 1, 3]), d, h * d)
        norms = self.array(f"{layer}_norm")

        def asking(i: int, x: str) -> str:
            return self.node("Reshape", self.node("MatMul", self.norm(x, norms[i]), q_k[i]), self.shape(0, h, d))

        return asking

    def _self(self) -> CodeGraph:
        d, h = self.d, self.heads
        layers = []
        for layer in range(self.config.expert_depth):
            parts = [self.split(self.stack(f"{layer}_{part}"), d, d) for part in ("q", "k", "v", "out")]
            layers.append((self.array(f"{layer}_norm"), parts, self._mlp(layer, self.product)))
        code = self._code()
        queries = self.experts.query.detach().numpy()
        scale = self.weight(np.array((d // h) ** -0.5))

        def expert(i: int, memory: str, heard: str) -> str:
            batch = self.node("Slice", self.node("Shape", memory), self.shape(0), self.shape(1))
            query = self.node(
                "Expand", self.weight(queries[i : i + 1]), self.node("Concat", batch, self.shape(1, d), axis=0)
            )
            written = self.node("Slice", memory, self.shape(0), self.shape(self._written(i)), self.shape(1))
            x = self.node("Concat", written, query, axis=1)
            for norm, (w_q, w_k, w_v, w_out), mlp in layers:
                normed = self.norm(x, norm[i])
                asking = normed
                if mlp is layers[-1][2]:  # of the last layer the query's state alone is read
                    x, asking = self._last(x), self._last(normed)
                q = self._split_heads(self.node("Mul", self.node("MatMul", asking, w_q[i]), scale), [0, 2, 1, 3])
                k = self._split_heads(self.node("MatMul", normed, w_k[i]), [0, 2, 3, 1])
                v = self._split_heads(self.node("MatMul", normed, w_v[i]), [0, 2, 1, 3])
                attended = self.node("MatMul", self.node("Softmax", self.node("MatMul", q, k), axis=-1), v)
                attended = self.node("Transpose", attended, perm=[0, 2, 1, 3])
                attended = self.node("Reshape", attended, self.shape(0, 0, d))
                x = mlp(i, self.node("Add", x, self.node("MatMul", attended, w_out[i])))
            return code(i, self.node("Reshape", x, self.shape(-1, d)), heard)

        return expert

    def _last(self, x: str) -> str:
        """The last item of each sequence, [B, T, D] to [B, 1, D]."""
        return self.node("Slice", x, self.shape(-1), self.shape(np.iinfo(np.int64).max), self.shape(1))

    def _split_heads(self, x: str, perm: list[int]) -> str:
        return self.node("Transpose", self.node("Reshape", x, self.shape(0, 0, self.heads, -1)), perm=perm)

    def _mlp(self, layer: int, product: ProductGraph) -> ExpertGraph:
        mlp = self.config.expert_mlp
        norms, biases = self.array(f"{layer}_mlp_norm"), self.array(f"{layer}_mlp_in_bias")
        w_in = self.split(self.stack(f"{layer}_mlp_in"), self.d, mlp)
        w_out = self.split(self.stack(f"{layer}_mlp_out"), mlp, self.d)

        def apply(i: int, x: str) -> str:
            hidden = product(self.norm(x, norms[i]), w_in[i], self.weight(biases[i]))
            return product(self.node("Gelu", hidden), w_out[i], x)

        return apply

    def _code(self) -> CodeGraph:
        """The code normalised but for its length, which does not matter to the nearest of entries of length 1."""
        norms, weights = self.array("norm"), self.array("code") / self.experts.code_deviation.numpy()[:, None]
        return lambda i, x, heard: self.gemm(self.norm(x, norms[i]), self.weight(weights[i]), heard)

    def _nearest(self, code: str) -> str:
        """The entry most like each code [B, C], the first of equals: [B, 1].

        `ArgMax` compares number by number, `ReduceMax` many at once: so each block of entries gives its best
        similarity, and `ArgMax` has but to find the best block, and in it the entry.
        """
        size = self.config.codebook_size
        blocks = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
        similarity = self.node("MatMul", code, self.codebook_columns)
        similarity = self.node("Reshape", similarity, self.shape(0, blocks, size // blocks))
        best = self.node("ReduceMax", similarity, self.shape(2), keepdims=0)
        block = self.node("ArgMax", best, axis=-1, keepdims=1)
        entry = self.node("ArgMax", self.node("GatherND", similarity, block, batch_dims=1), axis=-1, keepdims=1)
        return self.node("Add", self.node("Mul", block, self.shape(size // blocks)), entry)

    # -- nodes and weights

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output; return the output's name."""
        return self.outputs(1, op, *inputs, **attributes)[0]

    def outputs(self, count: int, op: str, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node of several outputs; return their names."""
        names = [self._name(op) for _ in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def norm(self, x: str, scale: NDArray[np.float32]) -> str:
        return self.node("LayerNormalization", x, self.weight(scale), axis=-1, epsilon=1e-5)

    def gemm(self, x: str, weight: str, addend: str) -> str:
        """Multiply x [R, P] by a weight [P, Q] and add what is [R, Q] or broadcast to it: one node."""
        return self.node("Gemm", x, weight, addend)

    def product(self, x: str, weight: str, addend: str) -> str:
        """Do the same for x of any rank."""
        return self.node("Add", self.node("MatMul", x, weight), addend)

    def array(self, name: str) -> NDArray[np.float32]:
        """A weight of all experts, to be cut here."""
        return self.experts.weights[name].detach().numpy()

    def stack(self, name: str) -> str:
        """A weight of all experts, to be cut when the graph is loaded."""
        return self.weight(self.array(name))

    def split(self, stack: str, rows: int, columns: int) -> list[str]:
        """Cut a stack into one matrix [rows, columns] an expert."""
        flat = self.node("Reshape", stack, self.shape(self.count * rows, columns))
        return self.outputs(self.count, "Split", flat, axis=0, num_outputs=self.count)

    def shape(self, *dimensions: int) -> str:
        if dimensions not in self.shapes:
            self.shapes[dimensions] = self._initialiser(np.array(dimensions, np.int64))
        return self.shapes[dimensions]

    def weight(self, array: NDArray[Any]) -> str:
        """A float32 constant, stored as fp16 where that loses nothing and saves more than the cast costs at loading."""
        array = np.asarray(array, np.float32)
        half = array.astype(np.float16)
        if array.size >= SMALLEST_HALF and (half.astype(np.float32) == array).all():
            return self.node("Cast", self._initialiser(half), to=TensorProto.FLOAT)
        return self._initialiser(array)

    def _heads(self, name: str, perm: list[int]) -> str:
        n, d, h = self.count, self.d, self.heads
        return self.node("Transpose", self.node("Reshape", self.stack(name), self.shape(n, d, h, d // h)), perm=perm)

    def _initialiser(self, array: NDArray[Any]) -> str:
        name = self._name("constant")
        self.initialisers.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, kind: str) -> str:
        self.names += 1
        return f"{kind.lower()}_{self.names}"
