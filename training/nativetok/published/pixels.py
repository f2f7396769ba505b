"""MaskGIT-VQGAN's decoder, which draws the pixels of NativeTok and of TiTok's first models.

Its input is a mixture of the codes of MaskGIT-VQGAN's own codebook, one a patch.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
EPSILON = 1e-6


@dataclass(frozen=True)
class PixelSizes:
    """Widths of the codes and of all blocks. Levels run from 0, the largest picture, upwards."""

    code: int
    """Width of a code, which is the input's."""
    middle: tuple[int, ...]
    """Widths of the blocks in the middle: the first entry goes in, the others come out of each block."""
    levels: tuple[tuple[int, ...], ...]
    """The same for every level, level 0 first."""

    @property
    def scale(self) -> int:
        """Pixels of the picture's side for each of the input's."""
        return int(2 ** (len(self.levels) - 1))


class ResidualBlock(nn.Module):
    """Two normalised convolutions, added to their input; where the width changes, to a projection of their output."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in, EPSILON)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width_out, EPSILON)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(width_out, width_out, 1, bias=False) if width_in != width_out else None

    def forward(self, x: Tensor) -> Tensor:
        """A picture [B, C, H, W] to [B, D, H, W]; the shortcut reads the block's output, as published."""
        out = self.conv1(F.silu(self.norm1(x)))
        out = self.conv2(F.silu(self.norm2(out)))
        return out + (x if self.nin_shortcut is None else self.nin_shortcut(out))


def residual_blocks(blocks: nn.Sequential) -> list[ResidualBlock]:
    """The residual blocks of a part, first to last."""
    return [block for block in blocks if isinstance(block, ResidualBlock)]


class Level(nn.Module):
    """Residual blocks at one size of picture, then twice the size except at the last."""

    def __init__(self, widths: tuple[int, ...], last: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*map(ResidualBlock, widths, widths[1:]))
        self.upsample_conv = None if last else nn.Conv2d(widths[-1], widths[-1], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """A picture [B, C, H, W] to [B, D, 2H, 2W], or [B, D, H, W] at the last level."""
        x = self.block(x)
        return x if self.upsample_conv is None else self.upsample_conv(F.interpolate(x, scale_factor=2.0))


class PixelDecoder(nn.Module):
    """Decodes mixed codes to pictures."""

    def __init__(self, sizes: PixelSizes) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(sizes.code, sizes.middle[0], 3, padding=1)
        self.mid = nn.Sequential(*map(ResidualBlock, sizes.middle, sizes.middle[1:]))
        self.up = nn.ModuleList(Level(widths, last=i == 0) for i, widths in enumerate(sizes.levels))
        self.norm_out = nn.GroupNorm(GROUPS, sizes.levels[0][-1], EPSILON)
        self.conv_out = nn.Conv2d(sizes.levels[0][-1], 3, 3, padding=1)

    def levels(self) -> list[Level]:
        """The levels in the order in which they run: the smallest picture first."""
        return [level for level in reversed(self.up) if isinstance(level, Level)]

    def forward(self, x: Tensor) -> Tensor:
        """Codes [B, C, G, G] to pixels [B, 3, S, S], meant for 0..1 and not clamped."""
        x = self.mid(self.conv_in(x))
        for level in self.levels():
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
