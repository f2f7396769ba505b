"""Writes an ONNX graph node by node and generates the names of its values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

SMALLEST_HALF = 2**15
"""The smallest number of elements for which a weight is stored as fp16."""


class Graph:
    """Nodes and constants, appended in execution order. Values are referred to by name."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initialisers: list[TensorProto] = []
        self._shapes: dict[tuple[int, ...], str] = {}
        self._names = 0

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        return self.outputs(1, op, *inputs, **attributes)[0]

    def outputs(self, count: int, op: str, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with several outputs; return their names."""
        names = [self._name(op) for _ in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def norm(self, x: str, scale: NDArray[np.float32]) -> str:
        """Normalise each row of x [..., D] and scale it by [D]. Layer normalisation for rows of mean 0, but faster."""
        return self.node("RMSNormalization", x, self.weight(scale), axis=-1, epsilon=1e-5)

    def centred(self, x: str) -> str:
        """Subtract the mean from each row of x [..., D]."""
        return self.node("Sub", x, self.node("ReduceMean", x, self.shape(-1), keepdims=1))

    def gemm(self, x: str, weight: str, addend: str) -> str:
        """Multiply x [R, P] by a weight [P, Q] and add an addend that broadcasts to [R, Q], in one node."""
        return self.node("Gemm", x, weight, addend)

    def product(self, x: str, weight: str, addend: str) -> str:
        """Do the same as `gemm` for x of any rank, in two nodes."""
        return self.node("Add", self.node("MatMul", x, weight), addend)

    def split(self, x: str, count: int, axis: int) -> list[str]:
        """Split x into `count` equal parts."""
        return self.outputs(count, "Split", x, axis=axis, num_outputs=count) if count > 1 else [x]

    def cut(self, x: str, *sizes: int) -> list[str]:
        """Cut x [B, P] into parts of the given widths, which add up to P; the name of a part of width 0 is empty."""
        parts = [size for size in sizes if size]
        names = iter(self.outputs(len(parts), "Split", x, self.shape(*parts), axis=1) if len(parts) > 1 else [x])
        return [next(names) if size else "" for size in sizes]

    def matrices(self, stack: str, count: int, rows: int, columns: int) -> list[str]:
        """Split a stack of weights into `count` matrices [rows, columns]."""
        return self.split(self.node("Reshape", stack, self.shape(count * rows, columns)), count, axis=0)

    def shape(self, *dimensions: int) -> str:
        """A 1-D int64 constant; equal ones are stored once."""
        if dimensions not in self._shapes:
            self._shapes[dimensions] = self._initialiser(np.array(dimensions, np.int64))
        return self._shapes[dimensions]

    def weight(self, array: NDArray[Any]) -> str:
        """A float32 constant, stored as fp16 if that is lossless and it is large enough to be worth a cast."""
        array = np.asarray(array, np.float32)
        half = array.astype(np.float16)
        if array.size >= SMALLEST_HALF and (half.astype(np.float32) == array).all():
            return self.node("Cast", self._initialiser(half), to=TensorProto.FLOAT)
        return self._initialiser(array)

    def _initialiser(self, array: NDArray[Any]) -> str:
        name = self._name("constant")
        self.initialisers.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind.lower()}_{self._names}"
