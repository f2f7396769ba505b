"""Draws what stability means: a photo, the same photo saved again, and the tokens of both.

python -m study.stability --weights training/weights/nativetok-128.safetensors --photo FILE \
    --picture docs/images/stability.png
"""

import argparse
import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from nativetok.data import load_images
from nativetok.model import NativeTok, load_weights
from nativetok.stability import saved_again

CELL = 18
COLUMNS = 32
MARGIN = 8
HEADER = 24
TURN = 0.618034
"""Hues of neighbouring ids lie this far apart on the circle, so that no two look alike by being neighbours."""


def draw(model: NativeTok, photo: np.ndarray, quality: int = 95) -> Image.Image:
    """Draw a photo and its tokens above the same photo saved as JPEG; tokens that changed have a frame.

    Args:
        model: in evaluation mode.
        photo: uint8 [S,S,3] at the model's size.
        quality: Pillow's JPEG quality.
    """
    again = saved_again(photo[None], "JPEG", quality=quality)[0]
    with torch.inference_mode():
        ids = model.encode(torch.from_numpy(np.stack([photo, again])))
        shown = model.decode(ids).numpy()
    before, after = ids.tolist()
    size, equal = photo.shape[0], sum(a == b for a, b in zip(before, after, strict=True))
    left = 2 * (size + MARGIN)
    sheet = Image.new("RGB", (left + COLUMNS * CELL, 2 * (HEADER + size + MARGIN)), "white")
    titles = (
        ("the photo", f"its {len(before)} tokens, a colour for each id"),
        (f"saved as JPEG {quality}", f"its tokens: {equal} of {len(before)} are the same, the others have a frame"),
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for row, (picture, tokens) in enumerate(((photo, before), (again, after))):
        top = row * (HEADER + size + MARGIN)
        for x, text in zip((0, size + MARGIN, left), (titles[row][0], "decoded again", titles[row][1]), strict=True):
            pen.text((x, top + HEADER // 2), text, fill="black", font=font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (0, top + HEADER))
        sheet.paste(Image.fromarray(shown[row]), (size + MARGIN, top + HEADER))
        for i, token in enumerate(tokens):
            x, y = left + i % COLUMNS * CELL, top + HEADER + i // COLUMNS * CELL
            frame = "black" if token != before[i] else None
            pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=_colour(token), outline=frame, width=3)
    return sheet


def _colour(token: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hls_to_rgb(token * TURN % 1, 0.45 + 0.2 * (token % 3), 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write the picture."""
    parser = argparse.ArgumentParser(prog="python -m study.stability", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="released weights, .safetensors")
    parser.add_argument("--photo", type=Path, required=True, help="an image file")
    parser.add_argument("--picture", type=Path, required=True, help="image file for the picture")
    options = parser.parse_args(arguments)
    model = load_weights(options.weights)
    photo = load_images([options.photo], model.config.image_size)[0]
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(model, photo).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
