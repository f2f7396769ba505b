"""The transformer block that all published tokenizers share."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Trunk:
    """A transformer's sizes."""

    width: int
    layers: int
    heads: int
    patch: int = 0
    """Side of a patch in pixels, where the transformer reads or draws patches."""


class Attention(nn.Module):
    """Self-attention of all rows over all rows. The number of heads is in no weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, T, W] to [B, T, W]."""
        b, t, w = x.shape
        q, k, v = (
            part.view(b, t, self.heads, w // self.heads).transpose(1, 2)
            for part in F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, w))


class Mlp(nn.Module):
    """Four times as wide inside; the exact GELU, with erf."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, T, W] to [B, T, W]."""
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Attention, then the MLP, each on normalised rows and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, T, W] to [B, T, W]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Sequential):
    """A sequence of blocks."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__(*(Block(trunk.width, trunk.heads) for _ in range(trunk.layers)))

    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self if isinstance(block, Block)]

    def set_heads(self, heads: int) -> None:
        """Split the rows into this many heads from now on; no weight changes."""
        for block in self.blocks():
            block.attn.heads = heads
