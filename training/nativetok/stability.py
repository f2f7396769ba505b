"""How stable tokens are: how many stay the same when an image changes so little that nobody sees it.

A generator cannot learn what such a change decides: to it, that part of the sequence is noise. The figure also
says what becomes of the tokens when a photo is re-saved, or decoded by another library.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from nativetok.metrics import share_by_position
from nativetok.model import NativeTok

IMAGES = 256
"""How many of the images are changed; a share over 256 images and 128 positions is exact to a few thousandths."""

Change = Callable[[np.ndarray], np.ndarray]


def one_level(images: np.ndarray) -> np.ndarray:
    """Move every value of images uint8 [N,H,W,3] by -1, 0 or 1 at random, always the same way for the same shape."""
    moved = images.astype(np.int16) + np.random.default_rng(0).integers(-1, 2, images.shape)
    return moved.clip(0, 255).astype(np.uint8)


def saved_again(images: np.ndarray, form: str, **options: Any) -> np.ndarray:
    """Save images uint8 [N,H,W,3] with Pillow in a lossy format and read them again."""
    again = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, form, **options)
        again.append(np.asarray(Image.open(file).convert("RGB")))
    return np.stack(again)


CHANGES: dict[str, Change] = {
    "one level": one_level,
    "JPEG 95": lambda images: saved_again(images, "JPEG", quality=95),
    "WebP 95": lambda images: saved_again(images, "WEBP", quality=95),
}


def measure_stability(model: NativeTok, images: np.ndarray, batch: int = 32) -> dict[str, dict[str, Any]]:
    """Encode images, change them, and encode them again.

    Args:
        model: in evaluation mode.
        images: uint8 [N,H,W,3] at the model's size; the first 256 are used.
        batch: images per batch.

    Returns:
        For each change a JSON-ready dictionary: `images`; `equal`, the share of tokens that stay the same, 0..1;
        `equal_by_position`, the same for each position; and `rms`, the root mean square difference of the two
        reconstructions in grey levels of 0..255.
    """
    images = images[:IMAGES]
    tokens, shown = _both_ways(model, images, batch)
    figures = {}
    for name, change in CHANGES.items():
        others, shown_others = _both_ways(model, change(images), batch)
        equal = share_by_position(tokens, others)
        difference = shown.astype(np.float64) - shown_others
        figures[name] = {
            "images": len(images),
            "equal": float(equal.mean()),
            "equal_by_position": [round(float(share), 3) for share in equal],
            "rms": float(np.sqrt(np.square(difference).mean())),
        }
    return figures


def _both_ways(model: NativeTok, images: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int64 [N,L] and reconstructions uint8 [N,H,W,3]."""
    device = next(model.parameters()).device
    tokens, shown = [], []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            ids = model.encode(torch.from_numpy(images[start : start + batch]).to(device))
            tokens.append(ids.cpu().numpy())
            shown.append(model.decode(ids).cpu().numpy())
    return np.concatenate(tokens), np.concatenate(shown)
