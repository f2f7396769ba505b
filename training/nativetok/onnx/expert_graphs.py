"""The ONNX nodes of each kind of expert: from the memory and a prediction to a code."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from nativetok.model import Experts
from nativetok.onnx.graph import Graph

# Appends the nodes of a part of an expert: maps its index in the stage and its input's name to its output's name.
Part = Callable[[int, str], str]
# Appends x @ weight + addend.
Product = Callable[[str, str, str], str]

UNSEEN = -1e4
"""The score of masked rows; its exponential is 0."""


class Memory:
    """What experts read [B, size, D]: latents, then tokens. Rows from `written` on are not written yet."""

    def __init__(self, graph: Graph, name: str, written: int) -> None:
        self.graph, self.name = graph, name
        self.written = self.size = written
        self.tokens: list[str] = []
        """The token rows written so far, each [B, 1, D]."""

    def write(self, row: str, number: str, growth: int) -> None:
        """Write a row [B, 1, D] in place at index `number`, the name of a value [B]; a full memory grows first."""
        if self.written == self.size:
            # The content of the new rows does not matter. As slices of the memory they keep the name of the batch
            # dimension, and ONNX Runtime writes in place only if names show that sizes are equal.
            shape = self.graph.shape
            rows = self.graph.node("Slice", self.name, shape(0), shape(growth), shape(1))
            self.name = self.graph.node("Concat", self.name, rows, axis=1)
            self.size += growth
        self.name = self.graph.node("TensorScatter", self.name, row, number, axis=1)
        self.written += 1
        self.tokens.append(row)


class ExpertGraphs(Protocol):
    """A stage's experts, which run one by one in groups; i and j are indices in the stage."""

    def read_ahead(self, group: range, memory: Memory) -> str:
        """Append the work of a group's experts that is done before the first of them runs.

        Returns the scores that are known by then [B, sum of `scores`], starting with the last expert's; "" if none are.
        """

    def scores(self, i: int) -> int:
        """How many scores of expert i, in the current group, are known before it runs."""

    def score_contribution(self, i: int, j: int) -> NDArray[np.float32]:
        """What expert i's code adds to the scores of a later expert j of the group: [C, `scores` of j]."""

    def code(self, i: int, memory: Memory, predicted: str, scores: str) -> str:
        """Append expert i: from the prediction of its code [B, C] and its scores to its code [B, C]."""


class _Parts:
    """What both kinds of experts share.

    States are only read by normalisations, which subtract the mean. So everything that is added to a state is already
    centred in the weights, and states have mean 0.
    """

    def __init__(self, graph: Graph, experts: Experts, embedding: nn.Linear) -> None:
        self.graph, self.config = graph, experts.config
        self.embedding = {name: weight.numpy() for name, weight in embedding.state_dict().items()}
        self.count = experts.end - experts.start
        self.weights = {name: weight.detach().numpy() for name, weight in experts.weights.items()}
        query = experts.query.detach()
        self.queries, self.positions = (query - query.mean(-1, keepdim=True)).numpy(), experts.position.detach().numpy()
        self.start = experts.start
        self.d, self.heads = self.config.expert_width, self.config.expert_heads
        self.code_weights = self.weights["code"] / experts.scale().numpy()[:, None]

    def row(self, i: int) -> int:
        """The memory row of expert i's token."""
        return self.config.latents + self.start + i

    def read_code(self, i: int, x: str, predicted: str) -> str:
        """Append the readout of the code [B, C] from an expert's last state [B, D]."""
        normed = self.graph.norm(x, self.weights["norm"][i])
        return self.graph.gemm(normed, self.graph.weight(self.code_weights[i]), predicted)

    def mlp(self, layer: int, product: Product) -> Part:
        """The feed-forward part of a layer, for states of the rank that `product` takes."""
        graph, width = self.graph, self.config.expert_mlp
        norms, biases = self.weights[f"{layer}_mlp_norm"], self.weights[f"{layer}_mlp_in_bias"]
        w_in = self.matrices(f"{layer}_mlp_in", self.d, width)
        w_out = self.matrices_to_state(f"{layer}_mlp_out", width)

        def apply(i: int, x: str) -> str:
            hidden = product(graph.norm(x, norms[i]), w_in[i], graph.weight(biases[i]))
            return product(graph.node("Gelu", hidden), w_out[i], x)

        return apply

    def matrices(self, name: str, rows: int, columns: int) -> list[str]:
        """A stacked weight as one matrix [rows, columns] per expert, split when the graph is loaded."""
        return self.graph.matrices(self.graph.weight(self.weights[name]), self.count, rows, columns)

    def matrices_to_state(self, name: str, rows: int) -> list[str]:
        """The same for a stacked weight [n, rows, D] whose products are added to states."""
        return self.graph.matrices(self.graph.centred(self.graph.weight(self.weights[name])), self.count, rows, self.d)

    def of_heads(self, name: str, perm: list[int]) -> str:
        """A stacked weight [n, D, D] as [n, D, H, D/H], transposed."""
        shape = self.graph.shape(self.count, self.d, self.heads, self.d // self.heads)
        stack = self.graph.node("Reshape", self.graph.weight(self.weights[name]), shape)
        return self.graph.node("Transpose", stack, perm=perm)


class CrossGraph(_Parts):
    """`CrossExperts` in their absorbed form.

    An expert's first-layer queries do not depend on the image. So the first layers of a whole group attend to the
    existing memory at once, and each expert only has to add the group's own tokens. For each head, it treats the
    mixture that was read ahead as a row whose score is the logarithm of that mixture's sum of exponentials. A token's
    score is linear in its code, so each code contributes to the scores of later experts.
    """

    def __init__(self, graph: Graph, experts: Experts, embedding: nn.Linear) -> None:
        super().__init__(graph, experts, embedding)
        n, d, h = self.count, self.d, self.heads
        self.first_queries = self._first_queries(experts)
        self.queries_of = {layer: self._queries(layer) for layer in range(1, self.config.expert_depth)}
        self.v_out, self.mlps = [], []
        for layer in range(self.config.expert_depth):
            out = graph.weight(self.weights[f"{layer}_out"])
            out = graph.node("Reshape", out, graph.shape(n, h, d // h, d))
            v_out = graph.node("MatMul", self.of_heads(f"{layer}_v", [0, 2, 1, 3]), out)
            self.v_out.append(graph.matrices(graph.centred(v_out), n, h * d, d))
            self.mlps.append(self.mlp(layer, graph.gemm))
        self.group = range(0)
        self.mixtures: list[str] = []
        """The mixture read ahead for each expert of the group: [B, H, D]."""

    def read_ahead(self, group: range, memory: Memory) -> str:
        graph, h, m = self.graph, self.heads, len(group)
        queries = graph.weight(self.first_queries[group.start : group.stop].reshape(1, m * h, self.d))
        places = self.weights["0_where"][group.start : group.stop, :, : memory.written].reshape(m * h, -1)
        scores, shares, mixtures = self._attend(queries, places, memory)
        self.group, self.mixtures = group, graph.split(mixtures, m, axis=1)
        if m == 1:
            return ""
        # the largest score minus the logarithm of its share is the logarithm of the sum of exponentials
        largest, share = (graph.node("ReduceMax", x, graph.shape(2), keepdims=0) for x in (scores, shares))
        sums = graph.node("Sub", largest, graph.node("Log", share))  # [B, m * H]
        picks, known = zip(*map(self._known_scores, reversed(group[1:])), strict=True)
        return graph.gemm(sums, graph.weight(np.concatenate(picks, 1)), graph.weight(np.concatenate(known)))

    def _known_scores(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Expert i's scores as far as known before its group runs: a matrix from sums [m * H], and an addend."""
        first, h, k = self.group.start, self.heads, i - self.group.start
        pick = np.zeros((len(self.group), h, h, h + k), np.float32)
        pick[k] = np.eye(h)[:, :, None] * np.eye(h, h + k)
        others = np.where(np.eye(h, dtype=bool), 0, UNSEEN)
        rows = self.positions[first:i] + self.embedding["bias"]
        tokens = self.first_queries[i] @ rows.T + self.weights["0_where"][i, :, self.row(first) : self.row(i)]
        return pick.reshape(len(self.group) * h, -1), np.concatenate([others, tokens], axis=1).reshape(-1)

    def scores(self, i: int) -> int:
        k = i - self.group.start
        return self.heads * (self.heads + k) if k else 0

    def score_contribution(self, i: int, j: int) -> NDArray[np.float32]:
        first, h, width = self.group.start, self.heads, self.config.code_width
        added = np.zeros((width, h, h + j - first), np.float32)
        added[:, :, h + i - first] = (self.first_queries[j] @ self.embedding["weight"]).T
        return added.reshape(width, -1)

    def code(self, i: int, memory: Memory, predicted: str, scores: str) -> str:
        graph, h, d = self.graph, self.heads, self.d
        x = graph.weight(self.queries[i : i + 1])
        for layer in range(self.config.expert_depth):
            mixture = self._mixture(layer, i, memory, x) if layer else self._first_mixture(i, memory, scores)
            x = graph.gemm(graph.node("Reshape", mixture, graph.shape(0, h * d)), self.v_out[layer][i], x)
            x = self.mlps[layer](i, x)
        return self.read_code(i, x, predicted)

    def _first_mixture(self, i: int, memory: Memory, scores: str) -> str:
        """The first layer's mixture of the memory for each head [B, H, D]."""
        graph, h, k = self.graph, self.heads, i - self.group.start
        if not k:
            return self.mixtures[0]
        rows = graph.node("Concat", self.mixtures[k], *memory.tokens[-k:], axis=1)
        shares = graph.node("Softmax", graph.node("Reshape", scores, graph.shape(0, h, h + k)), axis=-1)
        return graph.node("MatMul", shares, rows)

    def _mixture(self, layer: int, i: int, memory: Memory, x: str) -> str:
        """A later layer's mixture, for states x [B, D]."""
        graph = self.graph
        normed = graph.norm(x, self.weights[f"{layer}_norm"][i])
        queries = graph.node("MatMul", normed, self.queries_of[layer][i])
        queries = graph.node("Reshape", queries, graph.shape(0, self.heads, self.d))
        places = self.weights[f"{layer}_where"][i, :, : memory.size].copy()
        places[:, memory.written :] = UNSEEN
        return self._attend(queries, places, memory)[-1]

    def _attend(self, queries: str, places: NDArray[np.float32], memory: Memory) -> tuple[str, str, str]:
        """Scores and shares [B, Q, T] and mixtures [B, Q, D] of the memory, for queries [B or 1, Q, D]."""
        graph = self.graph
        keys = graph.node("Transpose", memory.name, perm=[0, 2, 1])
        scores = graph.node("Add", graph.node("MatMul", queries, keys), graph.weight(places))
        shares = graph.node("Softmax", scores, axis=-1)
        return scores, shares, graph.node("MatMul", shares, memory.name)

    def _first_queries(self, experts: Experts) -> NDArray[np.float32]:
        """The first layer's queries [n, H, D] with the key projection absorbed into them."""
        n, d, h = self.count, self.d, self.heads
        w = {name: weight.detach() for name, weight in experts.weights.items()}
        normed = F.layer_norm(experts.query.detach(), (d,)) * w["0_norm"]
        asking = (normed[:, None] @ w["0_q"]).view(n, h, 1, d // h)
        keys = w["0_k"].view(n, d, h, d // h).permute(0, 2, 3, 1)
        queries: NDArray[np.float32] = ((asking @ keys) * (d // h) ** -0.5).view(n, h, d).numpy()
        return queries

    def _queries(self, layer: int) -> list[str]:
        """A matrix [D, H * D] per expert: from a later layer's normalised state to its absorbed queries."""
        graph, d, h = self.graph, self.d, self.heads
        q = self.of_heads(f"{layer}_q", [0, 2, 1, 3])  # [n, H, D, d/H]
        k = self.of_heads(f"{layer}_k", [0, 2, 3, 1])  # [n, H, d/H, D]
        absorbed = graph.node("Mul", graph.node("MatMul", q, k), graph.weight(np.array((d // h) ** -0.5)))
        return graph.matrices(graph.node("Transpose", absorbed, perm=[0, 2, 1, 3]), self.count, d, h * d)


class SelfGraph(_Parts):
    """`SelfExperts`, of which nothing is known before they run."""

    def __init__(self, graph: Graph, experts: Experts, embedding: nn.Linear) -> None:
        super().__init__(graph, experts, embedding)
        d, depth = self.d, self.config.expert_depth
        self.norms = [self.weights[f"{layer}_norm"] for layer in range(depth)]
        self.parts = [[self.matrices(f"{layer}_{p}", d, d) for p in "qkv"] for layer in range(depth)]
        self.outs = [self.matrices_to_state(f"{layer}_out", d) for layer in range(depth)]
        self.mlps = [self.mlp(layer, graph.product) for layer in range(depth)]
        self.scale = graph.weight(np.array((d // self.heads) ** -0.5))

    def read_ahead(self, group: range, memory: Memory) -> str:
        return ""

    def scores(self, i: int) -> int:
        return 0

    def score_contribution(self, i: int, j: int) -> NDArray[np.float32]:
        return np.zeros((self.config.code_width, 0), np.float32)

    def code(self, i: int, memory: Memory, predicted: str, scores: str) -> str:
        graph, d = self.graph, self.d
        batch = graph.node("Slice", graph.node("Shape", memory.name), graph.shape(0), graph.shape(1))
        query = graph.weight(self.queries[i : i + 1])
        query = graph.node("Expand", query, graph.node("Concat", batch, graph.shape(1, d), axis=0))
        written = graph.node("Slice", memory.name, graph.shape(0), graph.shape(memory.written), graph.shape(1))
        x = graph.node("Concat", graph.centred(written), query, axis=1)
        for layer, (w_q, w_k, w_v) in enumerate(self.parts):
            normed = graph.norm(x, self.norms[layer][i])
            asking = normed
            if layer + 1 == self.config.expert_depth:  # only the query's state of the last layer is read
                x, asking = self._last(x), self._last(normed)
            q = graph.node("Mul", graph.node("MatMul", asking, w_q[i]), self.scale)
            q, k = (
                self._split_heads(q, [0, 2, 1, 3]),
                self._split_heads(graph.node("MatMul", normed, w_k[i]), [0, 2, 3, 1]),
            )
            v = self._split_heads(graph.node("MatMul", normed, w_v[i]), [0, 2, 1, 3])
            attended = graph.node("MatMul", graph.node("Softmax", graph.node("MatMul", q, k), axis=-1), v)
            attended = graph.node("Transpose", attended, perm=[0, 2, 1, 3])
            attended = graph.node("Reshape", attended, graph.shape(0, 0, d))
            x = self.mlps[layer](i, graph.product(attended, self.outs[layer][i], x))
        return self.read_code(i, graph.node("Reshape", x, graph.shape(-1, d)), predicted)

    def _last(self, x: str) -> str:
        """The last row of each sequence, from [B, T, D] to [B, 1, D]."""
        shape = self.graph.shape
        return self.graph.node("Slice", x, shape(-1), shape(np.iinfo(np.int64).max), shape(1))

    def _split_heads(self, x: str, perm: list[int]) -> str:
        heads = self.graph.node("Reshape", x, self.graph.shape(0, 0, self.heads, -1))
        return self.graph.node("Transpose", heads, perm=perm)
