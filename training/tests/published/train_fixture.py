"""Trains the fixture `titok-trained`: a tiny TiTok that reconstructs a few photos, so that wrong heads show.

cd training; python -m tests.published.train_fixture
"""

import torch
from torch.nn import functional as F

from nativetok.published.blocks import Trunk
from nativetok.published.photos import load_photos
from nativetok.published.random_weights import random_tokenizer
from nativetok.published.titok import TiTok, TiTokSizes

from .fixtures import CHECKPOINTS, PHOTOS

SIZES = TiTokSizes(
    image=16,
    length=16,
    codebook_size=64,
    code_width=8,
    normalised=True,
    signed=False,
    encoder=Trunk(32, 2, 4, 4),
    decoder=Trunk(32, 2, 2, 4),
    pixels=None,
)
STEPS, RATE = 600, 2e-3


def main() -> None:
    torch.manual_seed(0)
    model = random_tokenizer(SIZES, seed=1).requires_grad_(True)
    assert isinstance(model, TiTok)
    images = torch.from_numpy(load_photos(PHOTOS, SIZES.image, 12))
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        codes, book = model.codes(images), model.quantize
        units, entries = book.unit(codes), book.entries()[book.distances(codes).argmin(-1)]
        drawn = model.decoder(units + (entries - units).detach()).permute(0, 2, 3, 1)
        loss = F.mse_loss(drawn, images / 255)
        loss = loss + 0.1 * F.mse_loss(entries, units.detach()) + 0.05 * F.mse_loss(units, entries.detach())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimiser.step()
        schedule.step()
    folder = CHECKPOINTS / "titok-trained"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "tokenizer.bin")
    print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
