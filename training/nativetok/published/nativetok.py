"""NativeTok as its authors' published code has it: an image as a sequence of tokens, each said by an expert of its own.

A transformer reads the image once; its rows, made narrower, are what all experts read. Expert i also reads what the
experts before it said, before it was quantised. Two encoders are known (a third and a fourth are refused by
`recognise`): variant B normalises the image's rows before its first block, variant A does not.
The decoder is that of legacy TiTok, which takes as many tokens as there are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nativetok.published.blocks import Transformer, Trunk
from nativetok.published.pixels import PixelDecoder
from nativetok.published.titok import MASKGIT_CODES, Decoder
from nativetok.published.tokenizer import Codebook, Mixture, Tokenizer, TokenizerSizes


@dataclass(frozen=True, kw_only=True)
class NativeTokSizes(TokenizerSizes):
    """A NativeTok's sizes; `encoder` is its image transformer."""

    experts: Trunk
    variant: str = "B"
    """`A` or `B`."""


class Encoder(nn.Module):
    """The image transformer and the experts."""

    def __init__(self, sizes: NativeTokSizes) -> None:
        super().__init__()
        image, experts = sizes.encoder, sizes.experts
        leading = (1,) if sizes.variant == "A" else ()
        rows = (sizes.image // image.patch) ** 2 + 1
        self.patch_embed = nn.Conv2d(3, image.width, image.patch, image.patch)
        self.class_embedding = nn.Parameter(torch.zeros(*leading, 1, image.width))
        self.positional_embedding = nn.Parameter(torch.zeros(*leading, rows, image.width))
        self.transformers_Pixel = Transformer(image)
        if sizes.variant == "A":
            self.reduce_ffn = nn.Linear(image.width, experts.width)
        else:
            self.ln_pre_Pixel = nn.LayerNorm(image.width)
            self.ffn = nn.Linear(image.width, experts.width)
        self.variant = sizes.variant
        self.ln_pre = nn.LayerNorm(experts.width)
        self.transformers_tokens = nn.ModuleList(Transformer(experts) for _ in range(sizes.length))
        self.ln_post = nn.LayerNorm(experts.width)
        self.conv_out = nn.Conv2d(experts.width, sizes.code_width, 1)

    def experts(self) -> list[Transformer]:
        """The experts, first to last."""
        return [expert for expert in self.transformers_tokens if isinstance(expert, Transformer)]

    def switch(self) -> nn.Linear:
        """The layer that makes the image's rows narrower."""
        return self.reduce_ffn if self.variant == "A" else self.ffn

    def read(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] to what the experts read of the image [B, N + 1, W]."""
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        rows = torch.cat([first, patches], dim=1) + self.positional_embedding
        if self.variant == "B":
            rows = self.ln_pre_Pixel(rows)
        return self.switch()(self.transformers_Pixel(rows))

    def speak(self, meta: Tensor, latent_tokens: Tensor) -> Tensor:
        """What is read of the image [B, N + 1, W] and a query for each expert [L, W] to what they say [B, L, W].

        This is the straightforward computation: each expert's blocks on all rows. Graphs do less, with the same result.
        """
        rows = meta
        for query, expert in zip(latent_tokens, self.experts(), strict=True):
            queried = torch.cat([rows, query.expand(len(rows), 1, -1)], dim=1)
            said = expert(self.ln_pre(queried))[:, -1:]
            rows = torch.cat([rows, said], dim=1)
        return rows[:, meta.shape[1] :]

    def code(self, said: Tensor) -> Tensor:
        """What experts say [B, L, W] to codes [B, L, C]."""
        return self.conv_out(self.ln_post(said).transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)


class NativeTok(Tokenizer):
    """The whole tokenizer."""

    def __init__(self, sizes: NativeTokSizes) -> None:
        super().__init__()
        assert sizes.pixels is not None
        self.sizes: NativeTokSizes = sizes
        self.latent_tokens = nn.Parameter(torch.zeros(sizes.length, sizes.experts.width))
        self.encoder = Encoder(sizes)
        self.quantize = Codebook(sizes)
        self.decoder = Decoder(sizes, MASKGIT_CODES)
        self.pixel_quantize = Mixture(MASKGIT_CODES, sizes.pixels.code)
        self.pixel_decoder = PixelDecoder(sizes.pixels)

    def codes(self, images: Tensor) -> Tensor:
        meta = self.encoder.read(self.scaled(images))
        return self.encoder.code(self.encoder.speak(meta, self.latent_tokens))

    def pixels(self, tokens: Tensor) -> Tensor:
        """Tokens [B, k], any k up to L, to pixels [B, 3, S, S]."""
        return self.pixel_decoder(self.pixel_quantize(self.decoder(self.quantize.entries()[tokens]), hard=False))

    def set_heads(self, part: str, heads: int) -> None:
        if part == "experts":
            for expert in self.encoder.experts():
                expert.set_heads(heads)
        else:
            {"encoder": self.encoder.transformers_Pixel, "decoder": self.decoder.transformer}[part].set_heads(heads)
