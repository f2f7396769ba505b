"""Encoder and decoder in the form that is traced to ONNX: the same results from operators that ONNX Runtime runs fast.

On a CPU, ONNX Runtime 1.29 takes four times as long for `LayerNormalization` as for subtracting the mean,
`RMSNormalization` and an addition. It also fuses an addition and the `Gelu` after it into one operator that is slower
than both. It does not if the addition is part of a `Gemm`, which needs matrices.
"""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional as F

from nativetok.model import NativeTok, scaled, to_uint8


class EncoderGraph(nn.Module):
    """The Meta Image Transformer on channels-last patches: images have this order, so only whole rows are moved."""

    def __init__(self, model: NativeTok) -> None:
        super().__init__()
        self.encoder = deepcopy(model.encoder)
        self.size = model.config.patch_size
        weight = self.encoder.patch_embedding.weight
        channels_last = weight.view(-1, 3, self.size, self.size).permute(0, 2, 3, 1).flatten(1)
        self.encoder.patch_embedding.weight = nn.Parameter(channels_last.contiguous())
        _exchange(self.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 [B, H, W, 3] to latents [B, N, D]."""
        b, h, w, c = images.shape
        size = self.size
        patches = images.view(b, h // size, size, w // size, size, c).transpose(2, 3)
        return self.encoder.read(scaled(patches.reshape(b, -1, size * size * c)))


class DecoderGraph(nn.Module):
    """The decoder with the codebook in front of it."""

    def __init__(self, model: NativeTok) -> None:
        super().__init__()
        self.quantiser, self.absent = model.quantiser, model.config.codebook_size
        self.decoder = deepcopy(model.decoder)
        _exchange(self.decoder)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ids int32 [B, L], K for absent tokens, to images uint8 [B, H, W, 3]."""
        ids = tokens.long()
        return to_uint8(self.decoder(self.quantiser.lookup(ids), ids == self.absent))


class _Norm(nn.Module):
    """Layer normalisation of rows."""

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
    """Replace every layer normalisation and linear layer in a module, recursively."""
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, _Norm(child))
        elif isinstance(child, nn.Linear):
            setattr(module, name, _Linear(child))
        else:
            _exchange(child)
