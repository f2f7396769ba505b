"""A bundle's graphs on ONNX Runtime: pixels to tokens, stage by stage, and back."""

import os
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nativetok_client.bundle import Bundle
from nativetok_client.items import Pixels, Tokens


class Graphs:
    """The loaded graphs of a bundle. A run blocks; ONNX Runtime lets other threads go on meanwhile."""

    def __init__(self, bundle: Bundle, threads: int | None):
        """Load every graph, to run on `threads` threads, by default one per core. The files are verified already."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        # As the service has it: what waits busily takes cores from those who decode images, and the arena gives nothing
        # back.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        self._bundle = bundle
        self._sessions = {
            name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for name, path in bundle.graphs.items()
        }

    def encode(self, pixels: Pixels, length: int) -> Tokens:
        """Tokens uint16 [B, length] of images uint8 [B, S, S, 3]. Only the stages that `length` needs are run."""
        encoded = self._run("encoder", images=pixels)
        if self._bundle.handover == "none":
            return encoded["tokens"][:, :length].astype(np.uint16)
        stages: list[NDArray[np.int32]] = []
        state: dict[str, NDArray[Any]] = {}
        start = 0
        for index, end in enumerate(self._bundle.info.stages):
            if start >= length:
                break
            said = self._run(f"mocet-{index + 1}", latents=encoded["latents"], **state)
            stages.append(said["tokens"])
            if self._bundle.handover == "ids":
                state = {"prefix": np.concatenate(stages, 1)}
            elif "state" in said:
                state = {"prefix_state": said["state"]}
            start = end
        return np.concatenate(stages, 1)[:, :length].astype(np.uint16)

    def decode(self, ids: NDArray[np.int32]) -> Pixels:
        """Images uint8 [B, S, S, 3] of ids int32 [B, L], absent ones being the codebook's size."""
        images: Pixels = self._run("decoder", tokens=ids)["images"]
        return images

    def _run(self, name: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        session = self._sessions[name]
        outputs = [output.name for output in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, inputs), strict=True))
