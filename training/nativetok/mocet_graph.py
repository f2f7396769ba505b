"""ONNX graphs of the causal loop, one a training stage, its experts unrolled.

The nodes are written directly: PyTorch's exporter takes over a minute to trace 32 experts. Weights stay stacked and
fp16 in the file; ONNX Runtime casts, multiplies and splits them once, when it loads the graph.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nativetok.model import CrossExperts, NativeTok

# Appends the nodes of one expert's part: its number in the stage and its input's name to its output's name.
ExpertGraph = Callable[[int, str], str]
# The same of a part that also reads the codes before, joined; empty for the very first expert.
CodeGraph = Callable[[int, str, str], str]

OPSET = 20
IR_VERSION = 10


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
        d, start, n = self.d, self.experts.start, self.count
        inputs = [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["B", self.config.latents, d])]
        memory, codes = "latents", ""
        if start:
            inputs.append(helper.make_tensor_value_info("prefix", TensorProto.INT32, ["B", start]))
            embedded = self.node("Gather", self.embedded_entries, "prefix", axis=0)
            positions = self.weight(np.stack(self.all_positions[:start]))
            memory = self.node("Concat", memory, self.node("Add", embedded, positions), axis=1)
            entries = self.node("Gather", self.entries, "prefix", axis=0)
            codes = self.node("Reshape", entries, self.shape(0, start * self.config.code_width))
        expert = self._cross() if isinstance(self.experts, CrossExperts) else self._self()
        tokens = []
        for i in range(n):
            # the code's length does not matter to the nearest entry, all of which have length 1
            similarity = self.node("MatMul", expert(i, memory, codes), self.codebook_columns)
            tokens.append(self.node("ArgMax", similarity, axis=-1, keepdims=1))  # [B, 1]
            if i + 1 < n:
                embedded = self.node("Gather", self.embedded_entries, tokens[-1], axis=0)  # [B, 1, D]
                embedded = self.node("Add", embedded, self.weight(self.all_positions[start + i]))
                memory = self.node("Concat", memory, embedded, axis=1)
                code = self.node("Reshape", self.node("Gather", self.entries, tokens[-1], axis=0), self.shape(0, -1))
                codes = self.node("Concat", codes, code, axis=1) if codes else code
        joined = self.node("Concat", *tokens, axis=1)
        self.nodes.append(helper.make_node("Cast", [joined], ["tokens"], to=TensorProto.INT32))
        output = helper.make_tensor_value_info("tokens", TensorProto.INT32, ["B", n])
        graph = helper.make_graph(self.nodes, "mocet", inputs, [output], self.initialisers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    # -- experts: from the memory [B, T, D] and the codes before [B, k * C] to a code [B, C]

    def _cross(self) -> CodeGraph:
        d, h, n = self.d, self.heads, self.count
        layers = []
        for layer in range(self.config.expert_depth):
            q = self._heads(f"{layer}_q", [0, 2, 1, 3])  # [n, H, D, d/H]
            k = self._heads(f"{layer}_k", [0, 2, 3, 1])  # [n, H, d/H, D]
            scale = self.weight(np.array((d // h) ** -0.5))
            absorbed = self.node("Mul", self.node("MatMul", q, k), scale)  # [n, H, D, D]
            q_k = self.split(self.node("Transpose", absorbed, perm=[0, 2, 1, 3]), d, h * d)
            v = self._heads(f"{layer}_v", [0, 2, 1, 3])
            out = self.node("Reshape", self.stack(f"{layer}_out"), self.shape(n, h, d // h, d))
            where = self.experts.weights[f"{layer}_where"].detach().numpy()
            layers.append((q_k, self.split(self.node("MatMul", v, out), h * d, d), where, self._mlp(layer)))
        code = self._code()
        norms = [self.rows(f"{layer}_norm") for layer in range(self.config.expert_depth)]
        queries = self.split(self.weight(self.experts.query.detach().numpy()), 1, d)

        def expert(i: int, memory: str, codes: str) -> str:
            x = queries[i]  # [1, D] until the memory has been read: the first layer's attention query is a constant
            seen = self.config.latents + self.experts.start + i
            for norm, (q_k, v_out, where, mlp) in zip(norms, layers, strict=True):
                q = self.node("MatMul", self.norm(x, norm[i]), q_k[i])
                q = self.node("Reshape", q, self.shape(-1, h, d))
                scores = self.node("MatMul", q, self.node("Transpose", memory, perm=[0, 2, 1]))
                scores = self.node("Add", scores, self.weight(where[i, :, :seen]))
                mixture = self.node("MatMul", self.node("Softmax", scores, axis=-1), memory)  # [B, H, D]
                mixture = self.node("Reshape", mixture, self.shape(-1, h * d))
                x = mlp(i, self.node("Add", x, self.node("MatMul", mixture, v_out[i])))
            return code(i, x, codes)

        return expert

    def _self(self) -> CodeGraph:
        d, h = self.d, self.heads
        layers = []
        for layer in range(self.config.expert_depth):
            parts = [self.split(self.stack(f"{layer}_{part}"), d, d) for part in ("q", "k", "v", "out")]
            layers.append((self.rows(f"{layer}_norm"), parts, self._mlp(layer)))
        code = self._code()
        queries = self.split(self.weight(self.experts.query.detach().numpy()), 1, d)
        scale = self.weight(np.array((d // h) ** -0.5))

        def expert(i: int, memory: str, codes: str) -> str:
            batch = self.node("Slice", self.node("Shape", memory), self.shape(0), self.shape(1))
            query = self.node("Expand", queries[i], self.node("Concat", batch, self.shape(1, d), axis=0))
            x = self.node("Concat", memory, query, axis=1)
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
            return code(i, self.node("Reshape", x, self.shape(-1, d)), codes)

        return expert

    def _last(self, x: str) -> str:
        """The last item of each sequence, [B, T, D] to [B, 1, D]."""
        return self.node("Slice", x, self.shape(-1), self.shape(np.iinfo(np.int64).max), self.shape(1))

    def _split_heads(self, x: str, perm: list[int]) -> str:
        return self.node("Transpose", self.node("Reshape", x, self.shape(0, 0, self.heads, -1)), perm=perm)

    def _mlp(self, layer: int) -> ExpertGraph:
        mlp, norms = self.config.expert_mlp, self.rows(f"{layer}_mlp_norm")
        w_in, w_out = (
            self.split(self.stack(f"{layer}_mlp_in"), self.d, mlp),
            self.split(self.stack(f"{layer}_mlp_out"), mlp, self.d),
        )
        bias = self.rows(f"{layer}_mlp_in_bias")

        def apply(i: int, x: str) -> str:
            hidden = self.node("Add", self.node("MatMul", self.norm(x, norms[i]), w_in[i]), bias[i])
            return self.node("Add", x, self.node("MatMul", self.node("Gelu", hidden), w_out[i]))

        return apply

    def _code(self) -> CodeGraph:
        width = self.config.code_width
        deviation = self.weight(self.experts.code_deviation.numpy()[:, None])
        weights = self.split(self.node("Div", self.stack("code"), deviation), self.d, width)
        mean = self.node("Div", self.weight(self.experts.code_mean.numpy()[:, None]), deviation)
        norms, means = self.rows("norm"), self.split(mean, 1, width)
        told = self.experts.weights["told"].detach().numpy()
        deviations = self.split(deviation, 1, width)

        def code(i: int, x: str, codes: str) -> str:
            said = self.node("Sub", self.node("MatMul", self.norm(x, norms[i]), weights[i]), means[i])
            if not codes:
                return said
            weight = self.node("Div", self.weight(told[i, : (self.experts.start + i) * width]), deviations[i])
            return self.node("Sub", said, self.node("MatMul", codes, weight))

        return code

    # -- nodes and weights

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output; return the output's name."""
        name = self._name(op)
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def norm(self, x: str, scale: str) -> str:
        return self.node("LayerNormalization", x, scale, axis=-1, epsilon=1e-5)

    def stack(self, name: str) -> str:
        """A weight of all experts, cast to float32."""
        return self.weight(self.experts.weights[name].detach().numpy())

    def rows(self, name: str) -> list[str]:
        """A weight vector of each expert."""
        return [self.weight(row) for row in self.experts.weights[name].detach().numpy()]

    def split(self, stack: str, rows: int, columns: int) -> list[str]:
        """Cut a stack into one matrix [rows, columns] an expert."""
        flat = self.node("Reshape", stack, self.shape(self.count * rows, columns))
        names = [self._name("Split") for _ in range(self.count)]
        self.nodes.append(helper.make_node("Split", [flat], names, axis=0, num_outputs=self.count))
        return names

    def shape(self, *dimensions: int) -> str:
        return self._initialiser(np.array(dimensions, np.int64))

    def weight(self, array: NDArray[Any]) -> str:
        """A float32 constant, stored as fp16 where that loses nothing."""
        array = np.asarray(array, np.float32)
        half = array.astype(np.float16)
        if array.size > 1 and (half.astype(np.float32) == array).all():
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
