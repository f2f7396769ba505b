"""ONNX graphs of the causal loop: one per training stage, with its experts unrolled.

The nodes are written directly, as PyTorch's exporter takes over a minute to trace 32 experts. An expert is a few small
products, so its number of nodes matters, both at run time and for loading. Additions are folded into the products
before them, and whatever does not depend on the image is computed here. Large weights stay stacked and fp16 in the
file; ONNX Runtime casts, multiplies and splits them once, when it loads the graph.
"""

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nativetok.model import CrossExperts, NativeTok
from nativetok.onnx.expert_graphs import CrossGraph, ExpertGraphs, Memory, SelfGraph
from nativetok.onnx.graph import Graph

OPSET = 24  # the first with TensorScatter
IR_VERSION = 11
GROUP = 8
"""How many experts share their preparation, see `_StageGraph`."""


def mocet_graph(model: NativeTok, stage: int) -> onnx.ModelProto:
    """Write a stage's experts: from latents float32 [B, N, D] (and prefix int32 [B, start]) to tokens int32 [B, n].

    `cross` experts take their absorbed form, without keys and values (see `CrossExperts`).
    """
    return _StageGraph(model, stage).build()


class _StageGraph:
    """The graph of a stage. Its experts run one by one, but groups of them share work that is cheaper together.

    Once per group, the memory grows, the experts attend to the memory as it is by then, and the predictions from all
    earlier codes are computed.
    """

    def __init__(self, model: NativeTok, stage: int) -> None:
        self.graph = Graph()
        self.config, experts = model.config, model.mocet.experts[stage]
        self.start, self.count = experts.start, experts.end - experts.start
        self.group = min(GROUP, self.config.latents)  # the memory grows by copies of its own rows
        self.codebook = _Codebook(self.graph, model)
        kind = CrossGraph if isinstance(experts, CrossExperts) else SelfGraph
        self.experts: ExpertGraphs = kind(self.graph, experts, model.mocet.token_embedding)
        self.positions = np.concatenate([s.position.detach().numpy() for s in model.mocet.experts])
        # The prediction of each code from earlier ones, negated because it is subtracted, and normalised as codes are:
        # a constant and a matrix for each earlier code.
        n, width, deviation = self.count, self.config.code_width, experts.code_deviation.numpy()
        self.mean = (-experts.code_mean.numpy() / deviation).reshape(1, n * width)
        predictors = -experts.weights["told"].detach().numpy() / deviation[:, None]
        self.predictors = predictors.transpose(1, 0, 2).reshape(-1, width, n * width)  # [start + n - 1, C, n * C]

    def build(self) -> onnx.ModelProto:
        graph, n = self.graph, self.count
        batch = graph.node("Shape", "latents", start=0, end=1)
        memory, predicted = self._begin(batch)
        rows = self._row_numbers(batch)
        tokens: list[tuple[str, str]] = []
        for first in range(0, n, self.group):
            predicted = self._run(range(first, min(first + self.group, n)), memory, predicted, rows, tokens)
        graph.nodes.append(helper.make_node("Cast", [self.codebook.numbers(tokens)], ["tokens"], to=TensorProto.INT32))
        shape: list[str | int | None] = ["B", self.config.latents, self.config.expert_width]
        inputs = [helper.make_tensor_value_info("latents", TensorProto.FLOAT, shape)]
        if self.start:
            inputs.append(helper.make_tensor_value_info("prefix", TensorProto.INT32, ["B", self.start]))
        output = helper.make_tensor_value_info("tokens", TensorProto.INT32, ["B", n])
        whole = helper.make_graph(graph.nodes, "mocet", inputs, [output], graph.initialisers)
        return helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _begin(self, batch: str) -> tuple[Memory, str]:
        """The memory before the stage's first expert, and its experts' predictions from the prefix [B, n * C]."""
        graph, start = self.graph, self.start
        mean = graph.weight(self.mean)
        if not start:
            predicted = graph.node("Expand", mean, graph.node("Concat", batch, graph.shape(1), axis=0))
            return Memory(graph, "latents", self.config.latents), predicted
        rows, codes = self.codebook.look_up_prefix(start)
        rows = graph.node("Add", rows, graph.weight(self.positions[:start]))
        memory = Memory(graph, graph.node("Concat", "latents", rows, axis=1), self.config.latents + start)
        contribution = self.predictors[:start].reshape(start * self.config.code_width, -1)
        return memory, graph.gemm(codes, graph.weight(contribution), mean)

    def _row_numbers(self, batch: str) -> list[str]:
        """The memory row of each expert's token except the last one's, repeated for each image: [B]."""
        graph, first, count = self.graph, self.config.latents + self.start, self.count - 1
        numbers = graph.node("Unsqueeze", graph.shape(*range(first, first + count)), graph.shape(1))
        numbers = graph.node("Expand", numbers, graph.node("Concat", graph.shape(count), batch, axis=0))
        return graph.split(graph.node("Reshape", numbers, graph.shape(-1)), count, axis=0)

    def _run(
        self, group: range, memory: Memory, predicted: str, row_numbers: list[str], tokens: list[tuple[str, str]]
    ) -> str:
        """Append a group's experts and their tokens; return the predictions for the experts after the group."""
        graph, width = self.graph, self.config.code_width
        predicted, predicted_later = graph.cut(predicted, len(group) * width, (self.count - group.stop) * width)
        scores = self.experts.read_ahead(group, memory)
        known = graph.node("Concat", predicted, scores, axis=1) if scores else predicted
        codes = []
        for i in group:
            # What is known so far of the group's remaining experts: first the predictions of their codes, then their
            # scores, starting with the last expert's. So each expert cuts its own parts off both ends.
            later = range(i + 1, group.stop)
            left = len(later) * width + sum(self.experts.scores(j) for j in later)
            mine, known, scores = graph.cut(known, width, left, self.experts.scores(i))
            token = self.codebook.nearest(self.experts.code(i, memory, mine, scores))
            tokens.append(token)
            if i + 1 == self.count:
                break
            row, code = self.codebook.look_up(token)
            row = graph.node("Add", row, graph.weight(self.positions[self.start + i]))
            memory.write(row, row_numbers[i], min(self.group, self.count - 1 - i))
            codes.append(code)
            if later:
                to_codes = self._contribution(range(i, i + 1), later)
                to_scores = [self.experts.score_contribution(i, j) for j in reversed(later)]
                known = graph.gemm(code, graph.weight(np.concatenate([to_codes, *to_scores], axis=1)), known)
        if not predicted_later:
            return ""
        contribution = self._contribution(group, range(group.stop, self.count))
        return graph.gemm(graph.node("Concat", *codes, axis=1), graph.weight(contribution), predicted_later)

    def _contribution(self, sources: range, targets: range) -> NDArray[np.float32]:
        """What the codes of some experts add to the predictions for others: [sources * C, targets * C]."""
        width = self.config.code_width
        rows = self.predictors[self.start + sources.start : self.start + sources.stop]
        return rows[:, :, targets.start * width : targets.stop * width].reshape(len(sources) * width, -1)


class _Codebook:
    """The codebook in blocks of entries: a token is the index of its block and its place there, each int64 [B, 1]."""

    def __init__(self, graph: Graph, model: NativeTok) -> None:
        self.graph = graph
        size = model.config.codebook_size
        self.width = model.config.code_width
        self.count = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
        self.size = size // self.count
        embedding = model.mocet.token_embedding
        self.entries = graph.weight(model.quantiser.codebook.numpy())
        self.rows = graph.product(
            self.entries,
            graph.weight(embedding.weight.detach().numpy().T),
            graph.weight(embedding.bias.detach().numpy()),
        )
        self.columns = graph.node("Transpose", self.entries, perm=[1, 0])
        self.blocks_of_entries = graph.node("Reshape", self.entries, graph.shape(self.count, self.size, self.width))
        self.blocks_of_rows = graph.node("Reshape", self.rows, graph.shape(self.count, self.size, 1, -1))

    def nearest(self, code: str) -> tuple[str, str]:
        """The token of the entry most similar to each code [B, C]; the first one wins a tie.

        `ReduceMax` is vectorised, `ArgMax` is not. So `ReduceMax` finds each block's highest similarity, and `ArgMax`
        only has to find the best block and the entry in it.
        """
        graph = self.graph
        similarity = graph.node("MatMul", code, self.columns)
        similarity = graph.node("Reshape", similarity, graph.shape(0, self.count, self.size))
        best = graph.node("ReduceMax", similarity, graph.shape(2), keepdims=0)
        block = graph.node("ArgMax", best, axis=-1, keepdims=1)
        place = graph.node("ArgMax", graph.node("GatherND", similarity, block, batch_dims=1), axis=-1, keepdims=1)
        return block, place

    def look_up(self, token: tuple[str, str]) -> tuple[str, str]:
        """A token's embedding [B, 1, D] and its code [B, C]."""
        pair = self.graph.node("Concat", *token, axis=1)
        row = self.graph.node("GatherND", self.blocks_of_rows, pair)
        return row, self.graph.node("GatherND", self.blocks_of_entries, pair)

    def look_up_prefix(self, length: int) -> tuple[str, str]:
        """The embeddings [B, length, D] of the tokens in the input `prefix`, and their codes [B, length * C]."""
        graph = self.graph
        codes = graph.node("Gather", self.entries, "prefix", axis=0)
        codes = graph.node("Reshape", codes, graph.shape(0, length * self.width))
        return graph.node("Gather", self.rows, "prefix", axis=0), codes

    def numbers(self, tokens: list[tuple[str, str]]) -> str:
        """Tokens as ids of codebook entries: int64 [B, n]."""
        graph = self.graph
        blocks, places = (graph.node("Concat", *names, axis=1) for names in zip(*tokens, strict=True))
        return graph.node("Add", graph.node("Mul", blocks, graph.shape(self.size)), places)
