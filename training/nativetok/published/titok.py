"""TiTok (arXiv 2406.07550): an image as a short sequence of tokens without order.

Two kinds were published. The first ones (L-32, B-64, S-128), called legacy, re-read the latent rows as columns before
the code is read off, and their decoder predicts MaskGIT-VQGAN's codes, which that model's decoder draws. The newer ones
(BL-64, BL-128, SL-256) do neither: a latent row gives a code, and the decoder draws pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nativetok.published.blocks import Transformer
from nativetok.published.pixels import PixelDecoder
from nativetok.published.tokenizer import Codebook, Mixture, Tokenizer, TokenizerSizes, grid

MASKGIT_CODES = 1024
"""Entries of MaskGIT-VQGAN's codebook."""


@dataclass(frozen=True, kw_only=True)
class TiTokSizes(TokenizerSizes):
    """A TiTok's sizes; it is legacy where MaskGIT-VQGAN's decoder draws."""

    hard: bool = False
    """Stage 1 of a legacy model: each patch is the likeliest of MaskGIT-VQGAN's codes instead of their mixture."""


class Encoder(nn.Module):
    """Patches and learned latent rows in one transformer; codes are read from the latent rows."""

    def __init__(self, sizes: TiTokSizes) -> None:
        super().__init__()
        trunk = sizes.encoder
        self.legacy, self.patches = sizes.pixels is not None, (sizes.image // trunk.patch) ** 2
        self.patch_embed = nn.Conv2d(3, trunk.width, trunk.patch, trunk.patch)
        self.class_embedding = nn.Parameter(torch.zeros(1, trunk.width))
        self.positional_embedding = nn.Parameter(torch.zeros(self.patches + 1, trunk.width))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(sizes.length, trunk.width))
        self.ln_pre = nn.LayerNorm(trunk.width)
        self.transformer = Transformer(trunk)
        self.ln_post = nn.LayerNorm(trunk.width)
        self.conv_out = nn.Conv2d(trunk.width, sizes.code_width, 1)

    def forward(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] and latent rows [L, W] to codes [B, L, C]."""
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        image = torch.cat([first, patches], dim=1) + self.positional_embedding
        latents = (latent_tokens + self.latent_token_positional_embedding).expand(len(patches), -1, -1)
        rows = self.transformer(self.ln_pre(torch.cat([image, latents], dim=1)))
        rows = self.ln_post(rows[:, self.patches + 1 :])
        # the numbers of [L, W] are re-read as [W, L], which is not to transpose them
        columns = rows.reshape(len(rows), rows.shape[2], rows.shape[1]) if self.legacy else rows.transpose(1, 2)
        return self.conv_out(columns.unsqueeze(2)).squeeze(2).transpose(1, 2)


class Decoder(nn.Module):
    """Mask rows, one a patch, and the tokens' rows in one transformer; patches are drawn from the mask rows."""

    def __init__(self, sizes: TokenizerSizes, outputs: int) -> None:
        super().__init__()
        trunk = sizes.decoder
        self.side = sizes.image // trunk.patch
        self.decoder_embed = nn.Linear(sizes.code_width, trunk.width)
        self.class_embedding = nn.Parameter(torch.zeros(1, trunk.width))
        self.positional_embedding = nn.Parameter(torch.zeros(self.side**2 + 1, trunk.width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, trunk.width))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(sizes.length, trunk.width))
        self.ln_pre = nn.LayerNorm(trunk.width)
        self.transformer = Transformer(trunk)
        self.ln_post = nn.LayerNorm(trunk.width)
        if sizes.pixels:
            self.ffn = nn.Sequential(
                nn.Conv2d(trunk.width, 2 * trunk.width, 1), nn.Tanh(), nn.Conv2d(2 * trunk.width, outputs, 1)
            )
            self.conv_out = None
        else:  # a patch's colours are neighbours: channels are (row, column, colour)
            self.ffn = nn.Sequential(nn.Conv2d(trunk.width, outputs, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [B, k, C], k up to L, to logits [B, M, G, G], or to pixels [B, 3, S, S]."""
        b, k, _ = codes.shape
        masks = torch.cat([self.class_embedding, self.mask_token[0].expand(self.side**2, -1)])
        masks = (masks + self.positional_embedding).expand(b, -1, -1)
        tokens = self.decoder_embed(codes) + self.latent_token_positional_embedding[:k]
        rows = self.transformer(self.ln_pre(torch.cat([masks, tokens], dim=1)))
        drawn = self.ffn(grid(self.ln_post(rows[:, 1 : self.side**2 + 1]), self.side))
        if self.conv_out is None:
            return drawn
        patch = int((drawn.shape[1] // 3) ** 0.5)
        pixels = drawn.view(b, patch, patch, 3, self.side, self.side).permute(0, 3, 4, 1, 5, 2)
        return self.conv_out(pixels.reshape(b, 3, self.side * patch, self.side * patch))


class TiTok(Tokenizer):
    """The whole tokenizer."""

    def __init__(self, sizes: TiTokSizes) -> None:
        super().__init__()
        self.sizes: TiTokSizes = sizes
        self.latent_tokens = nn.Parameter(torch.zeros(sizes.length, sizes.encoder.width))
        self.encoder = Encoder(sizes)
        self.quantize = Codebook(sizes)
        self.decoder = Decoder(sizes, MASKGIT_CODES if sizes.pixels else 3 * sizes.decoder.patch**2)
        if sizes.pixels:
            self.pixel_quantize = Mixture(MASKGIT_CODES, sizes.pixels.code)
            self.pixel_decoder = PixelDecoder(sizes.pixels)

    def codes(self, images: Tensor) -> Tensor:
        return self.encoder(self.scaled(images), self.latent_tokens)

    def pixels(self, tokens: Tensor) -> Tensor:
        drawn = self.decoder(self.quantize.entries()[tokens])
        if not self.sizes.pixels:
            return drawn
        return self.pixel_decoder(self.pixel_quantize(drawn, self.sizes.hard))

    def set_heads(self, part: str, heads: int) -> None:
        {"encoder": self.encoder.transformer, "decoder": self.decoder.transformer}[part].set_heads(heads)
