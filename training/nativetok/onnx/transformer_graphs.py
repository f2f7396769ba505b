"""Encoder and decoder as they are traced to ONNX graphs: the same numbers from operators that ONNX Runtime runs fast.

On a CPU, release 1.29 takes four times as long for `LayerNormalization` as for a difference to the mean,
`RMSNormalization` and a sum. And it makes one operator of a sum and the `Gelu` after it which is slower than the two;
not where a product has taken the sum in, which `Gemm` does, on matrices.
"""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional as F

from nativetok.model import NativeTok, scaled, to_uint8


class EncoderGraph(nn.Module):
    """The Meta Image Transformer on patches whose channels come last, as they do in images: only whole rows move."""

    def __init__(self, model: NativeTok) -> None:
        super().__init__()
        self.encoder = deepcopy(model.encoder)
        self.size = model.config.patch_size
        weight = self.encoder.patch_embedding.weight
        channels_last = weight.view(-1, 3, self.size, self.size).permute(0, 2, 3, 1).flatten(1)
        self.encoder.patch_embedding.weight = nn.Parameter(channels_last.contiguous())
        _exchange(self.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, H, W, 3] to latents [B, N, D]."""
        b, h, w, c = images.shape
        size = self.size
        patches = images.view(b, h // size, size, w // size, size, c).transpose(2, 3)
        return self.encoder.read(scaled(patches.reshape(b, -1, size * size * c)))


class DecoderGraph(nn.Module):
    """The decoder, the codebook before it."""

    def __init__(self, model: NativeTok) -> None:
        super().__init__()
        self.quantiser, self.absent = model.quantiser, model.config.codebook_size
        self.decoder = deepcopy(model.decoder)
        _exchange(self.decoder)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids int32 [B, L], K where absent, to images uint8 [B, H, W, 3]."""
        ids = tokens.long()
        return to_uint8(self.decoder(self.quantiser.lookup(ids), ids == self.absent))


class _Norm(nn.Module):
    """A layer normalisation of rows."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return F.rms_norm(centred, x.shape[-1:], self.weight, self.epsilon) + self.bias


class _Linear(nn.Module):
    """A linear layer on all rows as one matrix."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])


def _exchange(module: nn.Module) -> None:
    """Put these in the place of every layer of their kinds."""
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, _Norm(child))
        elif isinstance(child, nn.Linear):
            setattr(module, name, _Linear(child))
        else:
            _exchange(child)
