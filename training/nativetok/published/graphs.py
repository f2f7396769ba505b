"""Writes the graphs of a bundle from a tokenizer's module.

Every operator is one that ONNX Runtime runs itself on the CPU and with CUDA. What the papers' code computes and nobody
reads is left out, which changes no result: the rows of a last block that are not read on; of an expert's last block,
whose one row reads the others, their keys and values (`Writer.query_block`); and what convolutions of doubled pixels
compute twice (`Writer.upsample`).
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper
from torch import Tensor, nn

from nativetok.published.blocks import Block
from nativetok.published.nativetok import NativeTok
from nativetok.published.pixels import EPSILON, GROUPS, PixelDecoder, ResidualBlock, residual_blocks
from nativetok.published.storage import Storage, StoredGraph
from nativetok.published.titok import TiTok
from nativetok.published.tokenizer import Tokenizer

STAGES = (16, 32, 64, 128)
"""Lengths at which a causal bundle's stages end, as far as the sequence goes."""


def stages(length: int) -> list[int]:
    """Where the stages of a sequence of so many tokens end; short ones have two at most."""
    if length <= STAGES[0]:
        return sorted({max(length // 2, 1), length})
    return [*(end for end in STAGES if end < length), length]


def write_graphs(model: Tokenizer, folder: Path, storage: Storage) -> dict[str, list[str]]:
    """Write all graphs of a tokenizer into a folder; return the files of each, the graph's own first."""
    written: dict[str, list[str]] = {}
    if isinstance(model, NativeTok):
        written["encoder"] = _image_encoder(model, folder, storage)
        written |= write_stages(model, folder, storage)
    else:
        assert isinstance(model, TiTok)
        written["encoder"] = _token_encoder(model, folder, storage)
    written["decoder"] = _decoder(model, folder, storage)
    return written


def write_stages(model: NativeTok, folder: Path, storage: Storage) -> dict[str, list[str]]:
    """Write the graphs of NativeTok's experts; return the files of each, the graph's own first."""
    ends = stages(model.sizes.length)
    return {
        f"mocet-{number}": _stage(model, folder, storage, number, start, end)
        for number, (start, end) in enumerate(pairwise([0, *ends]), 1)
    }


class Writer(StoredGraph):
    """Nodes that tokenizers are made of, their weights taken from a module by name."""

    def __init__(self, folder: Path, name: str, storage: Storage, parts: Sequence[nn.Module]) -> None:
        super().__init__(folder, name, storage, sum(p.numel() for part in parts for p in part.parameters()))

    def value(self, tensor: Tensor) -> str:
        """A constant that holds a weight unchanged."""
        return self.weight(_array(tensor))

    def number(self, value: float) -> str:
        return self.weight(np.array(value, np.float32))

    def linear(self, x: str, weight: Tensor, bias: Tensor | None) -> str:
        """Rows [..., P] through a layer of weights [Q, P], or of a 1x1 convolution."""
        matrix = self.weight(_array(weight).reshape(len(weight), -1).T)
        return (
            self.node("MatMul", x, matrix)
            if bias is None
            else self.node("Add", self.node("MatMul", x, matrix), self.value(bias))
        )

    def layer_norm(self, x: str, norm: nn.LayerNorm) -> str:
        """Layer normalisation of rows, from nodes that run faster than the operator of this name."""
        return self.node("Add", self.norm(self.centred(x), _array(norm.weight)), self.value(norm.bias))

    def rows(self, x: str, start: int, stop: int) -> str:
        """Some rows of x [B, T, W]."""
        return self.node("Slice", x, self.shape(start), self.shape(stop), self.shape(1))

    def repeated(self, rows: NDArray[np.float32], like: str) -> str:
        """Rows [T, W] for every item of a batch, of the size that `like` has."""
        batch = self.node("Slice", self.node("Shape", like), self.shape(0), self.shape(1))
        return self.node("Expand", self.weight(rows[None]), self.node("Concat", batch, self.shape(*rows.shape), axis=0))

    def block(self, x: str, block: Block, keep: tuple[int, int] | None = None, mask: str = "") -> str:
        """A block on rows [B, T, W]; where only some rows are read on, on these alone: [B, kept, W].

        A mask [B, 1, 1, T] is added to the scores.
        """
        attn, heads = block.attn, block.attn.heads
        weight, bias, width = attn.in_proj_weight, attn.in_proj_bias, len(attn.out_proj.bias)
        normed = self.layer_norm(x, block.ln_1)
        if keep is None:
            q, k, v = self._heads(self.linear(normed, weight, bias), 3, heads, width)
        else:
            x = self.rows(x, *keep)
            (q,) = self._heads(self.linear(self.rows(normed, *keep), weight[:width], bias[:width]), 1, heads, width)
            k, v = self._heads(self.linear(normed, weight[width:], bias[width:]), 2, heads, width)
        scaled = self.node("Mul", q, self.number((width // heads) ** -0.5))
        scores = self.node("MatMul", scaled, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        if mask:
            scores = self.node("Add", scores, mask)
        attended = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        attended = self.node("Reshape", self.node("Transpose", attended, perm=[0, 2, 1, 3]), self.shape(0, 0, width))
        x = self.node("Add", x, self.linear(attended, attn.out_proj.weight, attn.out_proj.bias))
        return self.mlp(x, block)

    def query_block(self, x: str, block: Block) -> str:
        """A block of which only the last row is read: rows [B, T, W] to [B, 1, W].

        One row asks, so no row needs a key or a value of its own. A score is q . K y = (K^T q) . y for the rows' normed
        y: K^T q once instead of K y for all rows; the keys' bias adds the same to all scores and goes. The mixture of
        values V y + b is V (the mixture of y) + b.
        """
        attn, heads, width = block.attn, block.attn.heads, len(block.attn.out_proj.bias)
        q_weight, k_weight, v_weight = (_array(part) for part in attn.in_proj_weight.chunk(3))
        q_bias, _, v_bias = attn.in_proj_bias.chunk(3)
        size = width // heads
        normed = self.layer_norm(x, block.ln_1)
        q = self.node(
            "Add", self.node("MatMul", self.rows(normed, -1, LAST), self.weight(q_weight.T)), self.value(q_bias)
        )
        q = self.node("Mul", self.node("Reshape", q, self.shape(0, heads, 1, size)), self.number(size**-0.5))
        asked = self.node("MatMul", q, self.weight(k_weight.reshape(heads, size, width)))
        asked = self.node("Reshape", asked, self.shape(0, heads, width))
        scores = self.node("MatMul", asked, self.node("Transpose", normed, perm=[0, 2, 1]))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), normed)
        mixed = self.node("Reshape", mixed, self.shape(0, heads, 1, width))
        values = self.weight(v_weight.reshape(heads, size, width).transpose(0, 2, 1))
        attended = self.node("Reshape", self.node("MatMul", mixed, values), self.shape(0, 1, width))
        attended = self.node("Add", attended, self.value(v_bias))
        x = self.rows(x, -1, LAST)
        x = self.node("Add", x, self.linear(attended, attn.out_proj.weight, attn.out_proj.bias))
        return self.mlp(x, block)

    def mlp(self, x: str, block: Block) -> str:
        fc, proj = block.mlp.c_fc, block.mlp.c_proj
        inner = self.node("Gelu", self.linear(self.layer_norm(x, block.ln_2), fc.weight, fc.bias))
        return self.node("Add", x, self.linear(inner, proj.weight, proj.bias))

    def _heads(self, x: str, parts: int, heads: int, width: int) -> list[str]:
        """Rows [B, T, parts * W] to so many [B, heads, T, W / heads]."""
        x = self.node("Reshape", x, self.shape(0, 0, parts, heads, width // heads))
        x = self.node("Transpose", x, perm=[2, 0, 3, 1, 4])
        return [self.node("Squeeze", part, self.shape(0)) for part in self.split(x, parts, axis=0)]

    def patches(self, model: Tokenizer, embed: nn.Conv2d) -> str:
        """The input `images` to embedded patches [B, N, W]."""
        sizes, patch = model.sizes, model.sizes.encoder.patch
        side = sizes.image // patch
        pixels = self.node("Reshape", "images", self.shape(0, side, patch, side, patch * 3))
        pixels = self.node("Transpose", pixels, perm=[0, 1, 3, 2, 4])
        pixels = self.node("Reshape", pixels, self.shape(0, side * side, patch * patch * 3))
        pixels = self.node("Div", self.node("Cast", pixels, to=TensorProto.FLOAT), self.number(255))
        if sizes.signed:
            pixels = self.node("Sub", self.node("Mul", pixels, self.number(2)), self.number(1))
        assert embed.bias is not None
        return self.linear(pixels, embed.weight.permute(0, 2, 3, 1), embed.bias)

    def nearest(self, codes: str, model: Tokenizer) -> str:
        """Codes [B, L, C] to the output `tokens`: the nearest entries, the first of equals."""
        book = model.quantize
        if book.normalised:
            length = self.node("ReduceL2", codes, self.shape(-1), keepdims=1)
            codes = self.node("Div", codes, self.node("Max", length, self.number(1e-12)))
        entries = _array(book.entries())
        similarity = self.node("MatMul", codes, self.exact(2 * entries.T))
        nearness = self.node("Sub", similarity, self.exact(np.square(entries).sum(1)))
        return self.named("tokens", "Cast", self.node("ArgMax", nearness, axis=-1, keepdims=0), to=TensorProto.INT32)

    def integer(self, value: int) -> str:
        return self._initialiser(np.array(value, np.int32))

    def exact(self, array: NDArray[np.float32]) -> str:
        """A constant that is never rounded."""
        return self._initialiser(np.ascontiguousarray(array))

    def conv(self, x: str, kernel: Tensor, bias: Tensor | None = None) -> str:
        """A 3x3 convolution that keeps the picture's size."""
        biases = [] if bias is None else [self.value(bias)]
        return self.node("Conv", x, self.value(kernel), *biases, kernel_shape=[3, 3], pads=[1] * 4)

    def norm_silu(self, x: str, norm: nn.GroupNorm, side: int) -> str:
        """Group normalisation, then SiLU, of a picture [B, C, side, side]."""
        channels = norm.num_channels
        ones, zeros = self.weight(np.ones(GROUPS, np.float32)), self.weight(np.zeros(GROUPS, np.float32))
        x = self.node("Reshape", x, self.shape(0, GROUPS, -1))
        x = self.node("InstanceNormalization", x, ones, zeros, epsilon=EPSILON)
        x = self.node("Reshape", x, self.shape(0, channels, side, side))
        x = self.node("Mul", x, self.weight(_array(norm.weight).reshape(-1, 1, 1)))
        x = self.node("Add", x, self.weight(_array(norm.bias).reshape(-1, 1, 1)))
        return self.node("Mul", x, self.node("Sigmoid", x))

    def residual(self, x: str, block: ResidualBlock, side: int) -> str:
        """A residual block. A shortcut reads what the second convolution gives, so the two are one convolution."""
        out = self.conv(self.norm_silu(x, block.norm1, side), block.conv1.weight)
        out = self.norm_silu(out, block.norm2, side)
        if block.nin_shortcut is None:
            return self.node("Add", self.conv(out, block.conv2.weight), x)
        kernel = block.conv2.weight
        shortcut = block.nin_shortcut.weight.flatten(1) @ kernel.flatten(1)
        return self.conv(out, kernel + shortcut.view_as(kernel))

    def upsample(self, x: str, conv: nn.Conv2d) -> str:
        """A 3x3 convolution of the picture [B, C, H, W] at twice its size: [B, D, 2H, 2W].

        Each pixel of x becomes four equal ones, so a kernel of 3 sees only 2 of x in each direction; which 2 depends on
        whether the result's row and column are even. So four kernels of 2, whose weights are sums, give a quarter of
        the result each: 4 products instead of 9.
        """
        assert conv.bias is not None
        bias, parts = self.value(conv.bias), []
        for row in (0, 1):
            for column in (0, 1):
                kernel = self.weight(_array(_pairs(_pairs(conv.weight, 2, row), 3, column)))
                pads = [1 - row, 1 - column, row, column]
                parts.append(self.node("Conv", x, kernel, bias, kernel_shape=[2, 2], pads=pads))
        return self.node("DepthToSpace", self.node("Concat", *parts, axis=1), blocksize=2, mode="DCR")

    def pixel_decoder(self, x: str, decoder: PixelDecoder, side: int) -> str:
        """Codes [B, D, G, G] to pixels [B, 3, S, S]."""
        x = self.conv(x, decoder.conv_in.weight, decoder.conv_in.bias)
        for block in residual_blocks(decoder.mid):
            x = self.residual(x, block, side)
        for level in decoder.levels():
            for block in residual_blocks(level.block):
                x = self.residual(x, block, side)
            if level.upsample_conv is not None:
                x, side = self.upsample(x, level.upsample_conv), 2 * side
        last = decoder.conv_out
        return self.conv(self.norm_silu(x, decoder.norm_out, side), last.weight, last.bias)


LAST = np.iinfo(np.int64).max
"""Where a slice goes to the end."""


def _pairs(kernel: Tensor, dim: int, odd: int) -> Tensor:
    """A kernel of 3 over doubled pixels as one of 2 over single ones, for the results at even or odd places."""
    first, middle, last = kernel.chunk(3, dim)
    return torch.cat([first + middle, last] if odd else [first, middle + last], dim)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


def _info(name: str, kind: int, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["B", *shape])


def _token_encoder(model: TiTok, folder: Path, storage: Storage) -> list[str]:
    """TiTok's encoder, quantiser included: `images` to `tokens`."""
    sizes, encoder = model.sizes, model.encoder
    g = Writer(folder, "encoder", storage, [encoder])
    positions = _array(encoder.positional_embedding)
    patches = g.node("Add", g.patches(model, encoder.patch_embed), g.weight(positions[1:]))
    first = g.repeated(_array(encoder.class_embedding) + positions[:1], patches)
    latents = g.repeated(_array(model.latent_tokens + encoder.latent_token_positional_embedding), patches)
    x = g.layer_norm(g.node("Concat", first, patches, latents, axis=1), encoder.ln_pre)
    *blocks, last = encoder.transformer.blocks()
    for block in blocks:
        x = g.block(x, block)
    x = g.layer_norm(g.block(x, last, keep=(encoder.patches + 1, LAST)), encoder.ln_post)
    if encoder.legacy:  # re-read, then transposed: see the module
        x = g.node("Reshape", x, g.shape(0, sizes.encoder.width, sizes.length))
        x = g.node("Transpose", x, perm=[0, 2, 1])
    g.nearest(_codes(g, x, encoder.conv_out), model)
    g.save(
        [_info("images", TensorProto.UINT8, sizes.image, sizes.image, 3)],
        [_info("tokens", TensorProto.INT32, sizes.length)],
    )
    return g.files


def _codes(g: Writer, x: str, conv: nn.Conv2d) -> str:
    """Rows [B, L, W] to the value `codes` [B, L, C]; that it has a name lets the conversion look at it."""
    assert conv.bias is not None
    weight = g.weight(_array(conv.weight).reshape(len(conv.weight), -1).T)
    return g.named("codes", "Add", g.node("MatMul", x, weight), g.value(conv.bias))


def _image_encoder(model: NativeTok, folder: Path, storage: Storage) -> list[str]:
    """NativeTok's image transformer: `images` to `latents`, what experts read."""
    sizes, encoder = model.sizes, model.encoder
    narrow = encoder.switch()
    parts = [encoder.patch_embed, encoder.transformers_Pixel, narrow]
    g = Writer(folder, "encoder", storage, parts)
    positions = _array(encoder.positional_embedding).reshape(-1, sizes.encoder.width)
    patches = g.node("Add", g.patches(model, encoder.patch_embed), g.weight(positions[1:]))
    first = g.repeated(_array(encoder.class_embedding).reshape(1, -1) + positions[:1], patches)
    x = g.node("Concat", first, patches, axis=1)
    if sizes.variant == "B":
        x = g.layer_norm(x, encoder.ln_pre_Pixel)
    for block in encoder.transformers_Pixel.blocks():
        x = g.block(x, block)
    matrix = g.weight(_array(narrow.weight).T)
    g.named("latents", "Add", g.node("MatMul", x, matrix), g.value(narrow.bias))
    g.save(
        [_info("images", TensorProto.UINT8, sizes.image, sizes.image, 3)],
        [_info("latents", TensorProto.FLOAT, len(positions), sizes.experts.width)],
    )
    return g.files


def _stage(model: NativeTok, folder: Path, storage: Storage, number: int, start: int, end: int) -> list[str]:
    """Experts `start` to `end`: `latents`, and the `state` of those before, to `tokens` and the grown `state`."""
    sizes, encoder = model.sizes, model.encoder
    experts = encoder.experts()[start:end]
    g = Writer(folder, f"mocet-{number}", storage, experts)
    raw = g.node("Concat", "latents", "prefix_state", axis=1) if start else "latents"
    rows = g.layer_norm(raw, encoder.ln_pre)  # of each row once: it is the same to every expert
    said = []
    for i, expert in zip(range(start, end), experts, strict=True):
        query = nn.functional.layer_norm(
            model.latent_tokens[i], encoder.ln_pre.normalized_shape, encoder.ln_pre.weight, encoder.ln_pre.bias
        )
        x = g.node("Concat", rows, g.repeated(_array(query)[None], rows), axis=1)
        *blocks, last = expert.blocks()
        for block in blocks:
            x = g.block(x, block)
        said.append(g.query_block(x, last))
        if i + 1 < end:
            rows = g.node("Concat", rows, g.layer_norm(said[-1], encoder.ln_pre), axis=1)
    out = g.node("Concat", *said, axis=1) if len(said) > 1 else said[0]
    g.nearest(_codes(g, g.layer_norm(out, encoder.ln_post), encoder.conv_out), model)
    g.named("state", "Concat", *(["prefix_state"] if start else []), out, axis=1)
    count = (sizes.image // sizes.encoder.patch) ** 2 + 1
    width = sizes.experts.width
    inputs = [_info("latents", TensorProto.FLOAT, count, width)]
    outputs = [_info("tokens", TensorProto.INT32, end - start), _info("state", TensorProto.FLOAT, end, width)]
    if start:
        inputs.append(_info("prefix_state", TensorProto.FLOAT, start, width))
    g.save(inputs, outputs)
    return g.files


def _decoder(model: TiTok | NativeTok, folder: Path, storage: Storage) -> list[str]:
    """Both families' decoder: `tokens` to `images`. Nothing attends to absent tokens, which NativeTok may have."""
    sizes, decoder, causal = model.sizes, model.decoder, isinstance(model, NativeTok)
    parts = [decoder, *([model.pixel_quantize, model.pixel_decoder] if sizes.pixels else [])]
    g = Writer(folder, "decoder", storage, parts)
    entries, mask = _array(model.quantize.entries()), ""
    patches = decoder.side**2
    if causal:
        entries = np.concatenate([entries, np.zeros_like(entries[:1])])
        absent = g.node("Equal", "tokens", g.integer(sizes.codebook_size))
        absent = g.node("Pad", g.node("Cast", absent, to=TensorProto.FLOAT), g.shape(0, patches + 1, 0, 0))
        mask = g.node("Where", g.node("Cast", absent, to=TensorProto.BOOL), g.number(-np.inf), g.number(0))
        mask = g.node("Unsqueeze", mask, g.shape(1, 2))
    tokens = g.linear(
        g.node("Gather", g.exact(entries), "tokens", axis=0), decoder.decoder_embed.weight, decoder.decoder_embed.bias
    )
    tokens = g.node("Add", tokens, g.value(decoder.latent_token_positional_embedding))
    masks = np.concatenate([_array(decoder.class_embedding), np.repeat(_array(decoder.mask_token[0]), patches, axis=0)])
    rows = g.repeated(masks + _array(decoder.positional_embedding), tokens)
    x = g.layer_norm(g.node("Concat", rows, tokens, axis=1), decoder.ln_pre)
    *blocks, last = decoder.transformer.blocks()
    for block in blocks:
        x = g.block(x, block, mask=mask)
    x = g.layer_norm(g.block(x, last, keep=(1, patches + 1), mask=mask), decoder.ln_post)
    own = isinstance(model, TiTok) and not sizes.pixels
    pixels = _own_pixels(g, x, model) if own else _maskgit_pixels(g, x, model)
    if sizes.signed:
        pixels = g.node("Div", g.node("Add", pixels, g.number(1)), g.number(2))
    pixels = g.named("pixels", "Transpose", pixels, perm=[0, 2, 3, 1])
    pixels = g.node("Round", g.node("Mul", g.node("Clip", pixels, g.number(0), g.number(1)), g.number(255)))
    g.named("images", "Cast", pixels, to=TensorProto.UINT8)
    g.save(
        [_info("tokens", TensorProto.INT32, sizes.length)],
        [_info("images", TensorProto.UINT8, sizes.image, sizes.image, 3)],
    )
    return g.files


def _maskgit_pixels(g: Writer, x: str, model: TiTok | NativeTok) -> str:
    """Rows of patches [B, N, W] to pixels [B, 3, S, S] by way of MaskGIT-VQGAN's codes."""
    side, ffn = model.decoder.side, model.decoder.ffn
    first, second = _conv(ffn[0]), _conv(ffn[2])
    codes_width = model.pixel_quantize.embedding.embedding_dim
    logits = g.linear(g.node("Tanh", g.linear(x, first.weight, first.bias)), second.weight, second.bias)
    codes = g.value(model.pixel_quantize.embedding.weight)
    if isinstance(model, TiTok) and model.sizes.hard:
        mixed = g.node("Gather", codes, g.node("ArgMax", logits, axis=-1, keepdims=0), axis=0)
    else:
        mixed = g.node("MatMul", g.node("Softmax", logits, axis=-1), codes)
    picture = g.node("Reshape", g.node("Transpose", mixed, perm=[0, 2, 1]), g.shape(0, codes_width, side, side))
    return g.pixel_decoder(picture, model.pixel_decoder, side)


def _own_pixels(g: Writer, x: str, model: TiTok | NativeTok) -> str:
    """Rows of patches [B, N, W] to pixels [B, 3, S, S], which the decoder computes itself."""
    side, patch = model.decoder.side, model.sizes.decoder.patch
    conv_out, ffn = model.decoder.conv_out, _conv(model.decoder.ffn[0])
    assert conv_out is not None
    drawn = g.linear(x, ffn.weight, ffn.bias)
    drawn = g.node("Reshape", drawn, g.shape(0, side, side, patch, patch, 3))
    drawn = g.node("Transpose", drawn, perm=[0, 5, 1, 3, 2, 4])
    return g.conv(g.node("Reshape", drawn, g.shape(0, 3, side * patch, side * patch)), conv_out.weight, conv_out.bias)
