"""ONNX graphs with their weights stored as a bundle has them: inside, as halves, or in a file of their own."""

from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nativetok.onnx.graph import Graph

Storage = Literal["float32", "float16"]

OPSET = 23
IR_VERSION = 11

ALIGNMENT = 4096
"""External weights start at multiples of a page, so that they can be mapped from the file."""
SMALLEST_EXTERNAL = 4096
"""Elements from which on a weight is worth a page of its own."""
SMALLEST_OUTSIDE = 16 * 2**20
"""Bytes of weights from which on a graph keeps them outside."""


class StoredGraph(Graph):
    """A graph and its weights, being written to a folder; weights that go outside are written as they come."""

    def __init__(self, folder: Path, name: str, storage: Storage, weights: int) -> None:
        """Begin a graph whose weights have so many elements."""
        super().__init__()
        self.folder, self.name, self.storage = folder, name, storage
        outside = storage == "float32" and 4 * weights >= SMALLEST_OUTSIDE
        self._outside: BinaryIO | None = (folder / f"{name}.weights").open("wb") if outside else None

    @property
    def files(self) -> list[str]:
        """Names of the files that the graph is made of, the graph's own first."""
        return [f"{self.name}.onnx", *([f"{self.name}.weights"] if self._outside else [])]

    def named(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node whose output has a name of its own."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def weight(self, array: NDArray[Any]) -> str:
        """A float32 constant, stored as the bundle's weights are."""
        array = np.ascontiguousarray(array, np.float32)
        if self.storage == "float16":
            return super().weight(array)
        if self._outside is None or array.size < SMALLEST_EXTERNAL:
            return self._initialiser(array)
        file = self._outside
        file.write(bytes(-file.tell() % ALIGNMENT))
        tensor = TensorProto(name=self._name("weight"), data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": f"{self.name}.weights", "offset": file.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        file.write(array.data)
        self.initialisers.append(tensor)
        return tensor.name

    def save(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        """Write the graph. Raises onnx.checker.ValidationError where it is no valid one."""
        if self._outside:
            self._outside.close()
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, self.initialisers)
        opset = [helper.make_opsetid("", OPSET)]
        path = self.folder / f"{self.name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="nativetok"), path)
        onnx.checker.check_model(path)
