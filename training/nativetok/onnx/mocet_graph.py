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
    """Write a stage's experts as a graph of a format 2 bundle with `handover: state` (docs/bundle.md).

    From latents float32 [B, N, D] (and prefix_state [B, start, C]) to tokens int32 [B, n] and, except for the last
    stage, state [B, end, C]: what the experts have said. `cross` experts take their absorbed form, without keys and
    values (see `CrossExperts`).
    """
    return _StageGraph(model, stage).build()


class _StageGraph:
    """The graph of a stage. Its experts run one by one, but groups of them share work that is cheaper together.

    Once per group, the memory grows, the experts attend to the memory as it is by then, and the predictions from all
    earlier codes are computed; at its end, all codes that nobody waits for are quantised.
    """

    def __init__(self, model: NativeTok, stage: int) -> None:
        self.graph = Graph()
        self.config, experts = model.config, model.mocet.experts[stage]
        self.start, self.count = experts.start, experts.end - experts.start
        self.group = min(GROUP, self.config.latents)  # the memory grows by copies of its own rows
        self.codebook = _Codebook(self.graph, model)
        kind = CrossGraph if isinstance(experts, CrossExperts) else SelfGraph
        self.experts: ExpertGraphs = kind(self.graph, experts, model.mocet.token_embedding)
        self.embedding = self.graph.weight(model.mocet.token_embedding.weight.detach().numpy().T)
        positions = np.concatenate([s.position.detach().numpy() for s in model.mocet.experts])
        self.positions = positions + model.mocet.token_embedding.bias.detach().numpy()
        # The prediction of each code from earlier ones, negated because it is subtracted, and normalised as codes are:
        # a constant and a matrix for each earlier code.
        n, width, deviation = self.count, self.config.code_width, experts.scale().numpy()
        self.mean = (-experts.code_mean.numpy() / deviation).reshape(1, n * width)
        predictors = -experts.weights["told"].detach().numpy() / deviation[:, None]
        self.predictors = predictors.transpose(1, 0, 2).reshape(-1, width, n * width)  # [start + n - 1, C, n * C]

    def build(self) -> onnx.ModelProto:
        graph, n, start, width = self.graph, self.count, self.start, self.config.code_width
        batch = graph.node("Shape", "latents", start=0, end=1)
        memory, predicted = self._begin(batch)
        rows = self._row_numbers(batch)
        tokens: list[str] = []
        said: list[str] = []
        for first in range(0, n, self.group):
            predicted = self._run(range(first, min(first + self.group, n)), memory, predicted, rows, tokens, said)
        ids = graph.node("Concat", *tokens, axis=1)
        graph.nodes.append(helper.make_node("Cast", [ids], ["tokens"], to=TensorProto.INT32))
        info, real = helper.make_tensor_value_info, TensorProto.FLOAT
        inputs = [info("latents", real, ["B", self.config.latents, self.config.expert_width])]
        outputs = [info("tokens", TensorProto.INT32, ["B", n])]
        if start:
            inputs.append(info("prefix_state", real, ["B", start, width]))
        if start + n < self.config.length:
            new = graph.node("Reshape", graph.node("Concat", *said, axis=1), graph.shape(0, n, width))
            parts = ["prefix_state", new] if start else [new]
            graph.nodes.append(helper.make_node("Concat", parts, ["state"], axis=1))
            outputs.append(info("state", real, ["B", start + n, width]))
        whole = helper.make_graph(graph.nodes, "mocet", inputs, outputs, graph.initialisers)
        return helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _begin(self, batch: str) -> tuple[Memory, str]:
        """The memory before the stage's first expert, and its experts' predictions from the prefix [B, n * C]."""
        graph, start = self.graph, self.start
        mean = graph.weight(self.mean)
        if not start:
            predicted = graph.node("Expand", mean, graph.node("Concat", batch, graph.shape(1), axis=0))
            return Memory(graph, "latents", self.config.latents), predicted
        rows = graph.product("prefix_state", self.embedding, graph.weight(self.positions[:start]))
        memory = Memory(graph, graph.node("Concat", "latents", rows, axis=1), self.config.latents + start)
        codes = graph.node("Reshape", "prefix_state", graph.shape(0, start * self.config.code_width))
        contribution = self.predictors[:start].reshape(start * self.config.code_width, -1)
        return memory, graph.gemm(codes, graph.weight(contribution), mean)

    def _row_numbers(self, batch: str) -> list[str]:
        """The memory row of each expert's token except the last one's, repeated for each image: [B]."""
        graph, first, count = self.graph, self.config.latents + self.start, self.count - 1
        numbers = graph.node("Unsqueeze", graph.shape(*range(first, first + count)), graph.shape(1))
        numbers = graph.node("Expand", numbers, graph.node("Concat", graph.shape(count), batch, axis=0))
        return graph.split(graph.node("Reshape", numbers, graph.shape(-1)), count, axis=0)

    def _run(
        self, group: range, memory: Memory, predicted: str, row_numbers: list[str], tokens: list[str], said: list[str]
    ) -> str:
        """Append a group's experts, their tokens [B, k] and what they say [B, C].

        Returns the predictions for the experts after the group.
        """
        graph, width = self.graph, self.config.code_width
        predicted, predicted_later = graph.cut(predicted, len(group) * width, (self.count - group.stop) * width)
        scores = self.experts.read_ahead(group, memory)
        known = graph.node("Concat", predicted, scores, axis=1) if scores else predicted
        codes: list[str] = []
        for i in group:
            # What is known so far of the group's remaining experts: first the predictions of their codes, then their
            # scores, starting with the last expert's. So each expert cuts its own parts off both ends.
            later = range(i + 1, group.stop)
            left = len(later) * width + sum(self.experts.scores(j) for j in later)
            mine, known, scores = graph.cut(known, width, left, self.experts.scores(i))
            code = self.experts.code(i, memory, mine, scores)
            if self.config.hears_quantised(self.start + i):
                token = self.codebook.nearest([code])
                tokens.append(token)
                code = self.codebook.look_up(token)
            else:
                codes.append(code)
            said.append(code)
            if i + 1 == self.count:
                break
            row = graph.gemm(code, self.embedding, graph.weight(self.positions[self.start + i]))
            memory.write(
                graph.node("Unsqueeze", row, graph.shape(1)), row_numbers[i], min(self.group, self.count - 1 - i)
            )
            if later:
                to_codes = self._contribution(range(i, i + 1), later)
                to_scores = [self.experts.score_contribution(i, j) for j in reversed(later)]
                known = graph.gemm(code, graph.weight(np.concatenate([to_codes, *to_scores], axis=1)), known)
        if codes:
            tokens.append(self.codebook.nearest(codes))
        if not predicted_later:
            return ""
        contribution = self._contribution(group, range(group.stop, self.count))
        return graph.gemm(
            graph.node("Concat", *said[-len(group) :], axis=1), graph.weight(contribution), predicted_later
        )

    def _contribution(self, sources: range, targets: range) -> NDArray[np.float32]:
        """What the codes of some experts add to the predictions for others: [sources * C, targets * C]."""
        width = self.config.code_width
        rows = self.predictors[self.start + sources.start : self.start + sources.stop]
        return rows[:, :, targets.start * width : targets.stop * width].reshape(len(sources) * width, -1)


class _Codebook:
    """Finds the nearest entries of the codebook, and looks entries up."""

    def __init__(self, graph: Graph, model: NativeTok) -> None:
        self.graph = graph
        size = model.config.codebook_size
        self.width = model.config.code_width
        self.count = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
        self.size = size // self.count
        self.entries = graph.weight(model.quantiser.codebook.numpy())
        self.columns = graph.node("Transpose", self.entries, perm=[1, 0])

    def nearest(self, codes: list[str]) -> str:
        """The ids int64 [B, n] of the entries most similar to n codes [B, C]; the first one wins a tie.

        `ReduceMax` is vectorised, `ArgMax` is not. So `ReduceMax` finds the highest similarity in each block of
        entries, and `ArgMax` only has to find the best block and the entry in it.
        """
        graph, shape = self.graph, self.graph.shape
        code = graph.node("Concat", *codes, axis=1) if len(codes) > 1 else codes[0]
        similarity = graph.node("MatMul", graph.node("Reshape", code, shape(0, len(codes), self.width)), self.columns)
        similarity = graph.node("Reshape", similarity, shape(0, 0, self.count, self.size))
        best = graph.node("ReduceMax", similarity, shape(3), keepdims=0)
        block = graph.node("ArgMax", best, axis=-1, keepdims=1)
        place = graph.node("ArgMax", graph.node("GatherND", similarity, block, batch_dims=2), axis=-1, keepdims=1)
        ids = graph.node("Add", graph.node("Mul", block, shape(self.size)), place)
        return graph.node("Squeeze", ids, shape(2))

    def look_up(self, token: str) -> str:
        """The entry [B, C] of a token int64 [B, 1]."""
        graph = self.graph
        return graph.node("Squeeze", graph.node("Gather", self.entries, token, axis=0), graph.shape(1))
