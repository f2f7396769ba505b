"""What published tokenizers have in common: from pixels to codes, to tokens, to pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nativetok.published.blocks import Trunk
from nativetok.published.pixels import PixelSizes


@dataclass(frozen=True)
class TokenizerSizes:
    """All that a tokenizer's weights and options say of it."""

    image: int
    """Side of the picture in pixels."""
    length: int
    codebook_size: int
    code_width: int
    normalised: bool
    """Whether codes and entries are brought to length 1."""
    signed: bool
    """Whether pixels are scaled to -1..1 instead of 0..1."""
    encoder: Trunk
    decoder: Trunk
    pixels: PixelSizes | None
    """MaskGIT-VQGAN's decoder; None where the tokenizer's own decoder draws pixels."""


class Codebook(nn.Module):
    """The entries that tokens stand for."""

    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        self.normalised = sizes.normalised
        self.embedding = nn.Embedding(sizes.codebook_size, sizes.code_width)

    def unit(self, x: Tensor) -> Tensor:
        """Bring vectors [..., C] to length 1, where this codebook does so."""
        return F.normalize(x, dim=-1, eps=1e-12) if self.normalised else x

    def entries(self) -> Tensor:
        """The entries [K, C] as the decoder sees them."""
        return self.unit(self.embedding.weight)

    def distances(self, codes: Tensor) -> Tensor:
        """Squared distances [B, L, K] of codes [B, L, C] to all entries."""
        codes, entries = self.unit(codes), self.entries()
        return codes.square().sum(-1, keepdim=True) + entries.square().sum(-1) - 2 * codes @ entries.T


class Mixture(nn.Module):
    """MaskGIT-VQGAN's codebook, of which each patch is a mixture."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, width)

    def forward(self, logits: Tensor, hard: bool) -> Tensor:
        """Logits [B, M, G, G] to codes [B, D, G, G]: their mean by softmax, or the likeliest one where `hard`."""
        scores = logits.permute(0, 2, 3, 1)
        codes = self.embedding(scores.argmax(-1)) if hard else scores.softmax(-1) @ self.embedding.weight
        return codes.permute(0, 3, 1, 2)


class Tokenizer(nn.Module):
    """A published tokenizer. Weights have the names that they have in the published files."""

    sizes: TokenizerSizes
    quantize: Codebook

    def scaled(self, images: Tensor) -> Tensor:
        """Images uint8 [B, S, S, 3] to pixels [B, 3, S, S] in 0..1, or -1..1."""
        pixels = images.permute(0, 3, 1, 2).to(self.quantize.embedding.weight.dtype) / 255
        return 2 * pixels - 1 if self.sizes.signed else pixels

    def codes(self, images: Tensor) -> Tensor:
        """Images uint8 [B, S, S, 3] to codes [B, L, C], before any normalisation."""
        raise NotImplementedError

    def pixels(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] to pixels [B, 3, S, S] as they are drawn."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 [B, S, S, 3] to tokens int64 [B, L]."""
        return self.quantize.distances(self.codes(images)).argmin(-1)

    def draw(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] to pixels [B, S, S, 3], meant for 0..1 and not clamped."""
        pixels = self.pixels(tokens).permute(0, 2, 3, 1)
        return (pixels + 1) / 2 if self.sizes.signed else pixels

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] to images uint8 [B, S, S, 3]."""
        return to_uint8(self.draw(tokens))

    def set_heads(self, part: str, heads: int) -> None:
        """Change the number of heads of a part: `encoder`, `decoder`, or `experts` where there are any."""
        raise NotImplementedError


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels in 0..1, clamped, to uint8, rounded."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def grid(rows: Tensor, side: int) -> Tensor:
    """Rows of patches [B, G * G, W], row by row, to a picture [B, W, G, G]."""
    return rows.transpose(1, 2).unflatten(2, (side, side))
