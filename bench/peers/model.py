"""The bundle's graphs in ONNX Runtime, and Pillow for image files: what the Python peers share."""

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from PIL import Image, ImageOps


class Model:
    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.image_size: int = manifest["image"]["size"]
        self.length: int = manifest["tokens"]["length"]
        # The decoder takes this id for an absent token.
        self._absent: int = manifest["codebook"]["size"]
        options = SessionOptions()
        options.intra_op_num_threads = 1  # one worker per core

        def load(name: str) -> InferenceSession:
            return InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])

        self._encoder = load("encoder")
        self._stages = [load(f"mocet-{i + 1}") for i in range(len(manifest["tokens"]["stages"]))]
        self._decoder = load("decoder")

    def warm_up(self, batch: int) -> None:
        """Runs everything at batch 1 and at the largest, so that no request pays for a first run."""
        for count in {1, batch}:
            images = np.zeros((count, self.image_size, self.image_size, 3), np.uint8)
            self.decode(list(self.encode(images)))

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Images [N, H, W, 3] to tokens [N, length]."""
        (latents,) = self._encoder.run(["latents"], {"images": images})
        tokens = np.empty((len(images), 0), np.int32)
        for stage in self._stages:
            feeds = {"latents": latents} | ({"prefix": tokens} if tokens.size else {})
            tokens = np.concatenate([tokens, stage.run(["tokens"], feeds)[0]], axis=1)
        return tokens

    def decode(self, rows: list[NDArray[np.int32]]) -> NDArray[np.uint8]:
        """Token sequences of any length to images [N, H, W, 3]."""
        tokens = np.full((len(rows), self.length), self._absent, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return self._decoder.run(["images"], {"tokens": tokens})[0]

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """An image file to the pixels [H, W, 3] that the model takes."""
        with Image.open(io.BytesIO(file)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(upright, (self.image_size, self.image_size), Image.Resampling.LANCZOS))


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    # zlib level 6, the default here as in sharp.
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
