"""The whole NativeTok model (arXiv 2601.22837).

    images --MetaImageTransformer--> latents --MoCET--> codes --Quantiser--> tokens --Decoder--> images

Letters in shapes: B images, N latents (one per patch), L sequence length, n experts in a stage, D expert width,
H heads, K codebook entries, C code width.
"""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nativetok.config import ModelConfig


class NativeTok(nn.Module):
    """Images to ordered tokens and back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MetaImageTransformer(config)
        self.mocet = MoCET(config)
        self.quantiser = Quantiser(config)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def encode(self, images: Tensor, length: int | None = None) -> Tensor:
        """Tokenize images uint8 [B, H, W, 3] to ids int64 [B, length], each 0..K-1; `length` is 1..L, by default L.

        Token i depends only on the image and tokens 0..i-1: a shorter encoding is a prefix of a longer one.
        """
        latents = self.encoder(to_pixels(images))
        return self.mocet.generate(latents, self.quantiser, length or self.config.length)[1]

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Decode ids int64 [B, k], k in 1..L, to images uint8 [B, H, W, 3]; the id K stands for an absent token."""
        tokens = F.pad(tokens, (0, self.config.length - tokens.shape[1]), value=self.config.codebook_size)
        return to_uint8(self.decoder(self.quantiser.lookup(tokens), tokens == self.config.codebook_size))


def to_pixels(images: Tensor) -> Tensor:
    """Convert images uint8 [B, H, W, 3] to the network's pixels float32 [B, 3, H, W] in -1..1."""
    return scaled(images.permute(0, 3, 1, 2))


def scaled(values: Tensor) -> Tensor:
    """Scale uint8 values of any shape to float32 in -1..1."""
    return values.float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> Tensor:
    """Convert the network's pixels float32 [B, 3, H, W] to images uint8 [B, H, W, 3]."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Transformer blocks for encoder and decoder


def sincos(places: Tensor, width: int) -> Tensor:
    """2-D sine-cosine position embeddings [M, width] of places [M, 2] in units of patches (MAE, arXiv 2111.06377)."""
    angles = places[:, :, None] * 100.0 ** -torch.linspace(0, 1, width // 4)  # [M, 2, width/4]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def patch_places(grid: int) -> Tensor:
    """Row and column of each patch [grid*grid, 2]."""
    return torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).float()


def token_places(grid: int, length: int) -> tuple[Tensor, Tensor]:
    """Where each token initially looks in the image: centres [length, 2] and sides [length] of squares, in patches.

    The squares shrink from the whole image to one patch. Any prefix of them is spread evenly (by the R2 sequence).
    """
    plastic = 1.32471795724
    steps = torch.arange(1, length + 1)[:, None] * torch.tensor([1 / plastic, 1 / plastic**2])
    side = (grid * (2 / torch.arange(1, length + 1)).sqrt()).clamp(1, grid)
    margin = side[:, None] / 2
    return torch.clamp((0.5 + steps) % 1 * grid, margin, grid - margin) - 0.5, side


class Attention(nn.Module):
    """Bidirectional multi-head self-attention as plain products: on a CPU faster than PyTorch's at these lengths."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        # Queries and keys start equal, so that similar rows attend to each other (mimetic initialisation, 2305.09828).
        with torch.no_grad():
            self.qkv.weight[width : 2 * width] = self.qkv.weight[:width]

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, width] to the same."""
        b, t, width = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, width))


class Block(nn.Module):
    """A pre-norm transformer block, initialised as the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        nn.init.zeros_(self.mlp.get_parameter("2.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, width] to the same."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class MetaImageTransformer(nn.Module):
    """Meta Image Transformer with its dimension switcher: computes the latents that all experts share (section 3.2)."""

    positions: Tensor
    latent_positions: Tensor
    tokens: nn.Parameter | None
    """Learned tokens that go through the blocks beside the patches; only `parallel` has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.register_parameter("tokens", None)
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.encoder_width)
        places = patch_places(config.image_size // config.patch_size)
        self.register_buffer("positions", sincos(places, config.encoder_width), persistent=False)
        if config.expert_kind == "parallel":
            self.register_parameter("tokens", nn.Parameter(torch.randn(config.length, config.encoder_width) * 0.5))
        else:
            self.register_buffer("latent_positions", sincos(places, config.expert_width), persistent=False)
        self.blocks = nn.Sequential(
            *(Block(config.encoder_width, config.encoder_heads) for _ in range(config.encoder_depth))
        )
        self.norm = nn.LayerNorm(config.encoder_width)
        self.dimension_switcher = nn.Linear(config.encoder_width, config.expert_width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels [B, 3, H, W] in -1..1 to latents [B, N, D]."""
        return self.read(patches(pixels, self.patch_size))

    def read(self, x: Tensor) -> Tensor:
        """Map patches [B, N, 3 * size * size] to latents [B, N, D]."""
        x = self.patch_embedding(x) + self.positions
        if self.tokens is None:
            return self.dimension_switcher(self.norm(self.blocks(x))) + self.latent_positions
        x = self.blocks(torch.cat([x, self.tokens.expand(len(x), -1, -1)], dim=1))
        return self.dimension_switcher(self.norm(x[:, -len(self.tokens) :]))


def patches(pixels: Tensor, size: int) -> Tensor:
    """Cut pixels [B, 3, H, W] into patches [B, N, 3 * size * size], row by row."""
    b, c, h, w = pixels.shape
    x = pixels.view(b, c, h // size, size, w // size, size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // size) * (w // size), c * size * size)


# ---------------------------------------------------------------------------------------------------------------------
# Mixture of Causal Expert Transformer


class MoCET(nn.Module):
    """One small expert per position; expert i reads the latents and the embedded tokens before it (section 3.2).

    The experts of one training stage share a module with stacked weights, so that a stage is added and frozen as one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Linear(config.code_width, config.expert_width)
        starts = (0, *config.stages[:-1])
        kind = {"cross": CrossExperts, "self": SelfExperts, "parallel": ParallelExperts}[config.expert_kind]
        self.stages = nn.ModuleList(kind(config, start, end) for start, end in zip(starts, config.stages, strict=True))
        nn.init.normal_(self.token_embedding.weight)

    @property
    def experts(self) -> list["Experts"]:
        """The experts of each stage of training, in order."""
        return [cast(Experts, stage) for stage in self.stages]

    def generate(self, latents: Tensor, quantiser: "Quantiser", length: int) -> tuple[Tensor, Tensor]:
        """Run the causal loop: from latents [B, N, D] to what experts say [B, length, C] and ids int64 [B, length]."""
        b = latents.shape[0]
        memory = latents.new_empty(b, latents.shape[1] + length, latents.shape[2])
        memory[:, : latents.shape[1]] = latents
        said, ids = (
            latents.new_empty(b, length, self.config.code_width),
            latents.new_zeros(b, length, dtype=torch.long),
        )
        for stage in self.experts:
            for i in range(stage.start, min(stage.end, length)):
                before = latents.shape[1] + i
                said[:, i], ids[:, i] = self.say(stage, i, memory[:, :before], said[:, :i], quantiser)
                memory[:, before] = stage.embed(self.token_embedding, said[:, i, None], i)[:, 0]
        return said, ids

    def say(
        self, stage: "Experts", i: int, memory: Tensor, said: Tensor, quantiser: "Quantiser"
    ) -> tuple[Tensor, Tensor]:
        """Run position i: what it says to later ones [B, C], and its ids int64 [B].

        Later experts hear codes before quantisation, as the authors' own code has it: so an id that flips, because it
        was nearly a tie, changes no later id. The first `feedback` codes they hear after quantisation: these say most,
        and later experts can then correct what quantising them lost.
        """
        code = stage.expert(i)(memory, said)
        ids = quantiser(code)
        return quantiser.lookup(ids) if self.config.hears_quantised(i) else code, ids

    @torch.no_grad()
    def calibrate(self, latents: Tensor, quantiser: "Quantiser", first: int, end: int) -> None:
        """Measure the statistics that normalise the codes of positions first..end-1, on latents [B, N, D]."""
        memory, said = latents, latents.new_empty(len(latents), 0, self.config.code_width)
        for stage in self.experts:
            for i in range(stage.start, min(stage.end, end)):
                if i >= first:
                    stage.calibrate(i, memory, said)
                code = self.say(stage, i, memory, said, quantiser)[0][:, None]
                said = torch.cat([said, code], dim=1)
                memory = torch.cat([memory, stage.embed(self.token_embedding, code, i)], dim=1)

    def predict(self, latents: Tensor, said: Tensor, stage: int) -> Tensor:
        """Compute the codes [B, n, C] of all positions of a stage at once, given what was said [B, end, C] so far.

        Gives what the causal loop gives, as that is known already (teacher forcing); training uses it.
        """
        experts = self.experts[stage]
        embedded, start = [latents], 0
        for s in self.experts[: stage + 1]:
            embedded.append(s.embed(self.token_embedding, said[:, s.start : s.end], s.start))
            start = s.end
        memory = torch.cat(embedded, dim=1)[:, : latents.shape[1] + start - 1]
        return experts(memory, said[:, : experts.end - 1])


class Experts(nn.Module):
    """The experts of positions start..end-1; every weight has one slice per expert along its first dimension."""

    code_mean: Tensor
    code_deviation: Tensor
    reads_tokens = True
    """Whether a position reads the tokens before it."""

    def __init__(self, config: ModelConfig, start: int, end: int) -> None:
        super().__init__()
        self.config, self.start, self.end = config, start, end
        n, d, mlp = end - start, config.expert_width, config.expert_mlp
        places, _ = token_places(config.image_size // config.patch_size, end)
        self.position = nn.Parameter(torch.randn(n, d) * 0.5)
        self.query = nn.Parameter(sincos(places[start:], d))
        weights: dict[str, Tensor] = {}
        for layer in range(config.expert_depth):
            weights |= {
                f"{layer}_norm": torch.ones(n, d),
                **self._attention(layer),
                f"{layer}_mlp_norm": torch.ones(n, d),
                f"{layer}_mlp_in": _stack(n, d, mlp),
                f"{layer}_mlp_in_bias": torch.zeros(n, mlp),
                f"{layer}_mlp_out": torch.zeros(n, mlp, d),
            }
        weights |= {
            "norm": torch.ones(n, d),
            "code": _stack(n, d, config.code_width),
        }
        if self.reads_tokens:
            weights["told"] = torch.zeros(n, (end - 1) * config.code_width, config.code_width)
        self.weights = nn.ParameterDict(weights)
        self.register_buffer("code_mean", torch.zeros(n, config.code_width))
        self.register_buffer("code_deviation", torch.ones(n, config.code_width))

    def embed(self, embedding: nn.Linear, codes: Tensor, first: int) -> Tensor:
        """Embed codes [B, k, C] of positions first, first + 1, ... as rows of memory [B, k, D]."""
        first -= self.start
        return embedding(codes) + self.position[first : first + codes.shape[1]]

    def forward(self, memory: Tensor, codes: Tensor) -> Tensor:
        """Run all experts at once and return their codes of unit length [B, n, C].

        Takes the memory [B, N + end - 1, D] (latents, then embedded tokens) and the codes [B, end - 1, C] of the
        tokens; each expert sees only what comes before it.
        """
        tokens = torch.arange(self.end - 1, device=memory.device)
        before = tokens < torch.arange(self.start, self.end, device=memory.device)[:, None]  # [n, end - 1]
        visible = F.pad(before, (self.config.latents, 0), value=True)
        weights = self._all_weights()
        earlier = (codes * before[:, None, :, None]).flatten(2)  # [n, B, (end - 1) * C]
        return self._code(self._state(self.query, weights, memory, visible), earlier, weights).transpose(0, 1)

    def expert(self, i: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the expert of position i: maps memory [B, N + i, D] and earlier codes [B, i, C] to its code [B, C]."""
        query, weights = self._slice(i)
        return lambda memory, codes: self._code(
            self._state(query, weights, memory, None), codes.flatten(1)[None], weights
        )[0]

    @torch.no_grad()
    def state(self, i: int, memory: Tensor) -> Tensor:
        """Compute the normalised state [B, D] that position i's code is read from, given the memory [B, N + i, D]."""
        query, weights = self._slice(i)
        return _norm(self._state(query, weights, memory, None), weights["norm"])[0]

    @torch.no_grad()
    def calibrate(self, i: int, memory: Tensor, codes: Tensor) -> None:
        """Measure the mean and deviation of position i's code, given many images' memory and earlier codes."""
        _, weights = self._slice(i)
        code = self.state(i, memory) @ weights["code"][0]
        if self.reads_tokens:
            code = code - codes.flatten(1) @ weights["told"][0]
        weights["code_mean"][0] = code.mean(0)
        weights["code_deviation"][0] = code.std(0) + 1e-4

    def scale(self) -> Tensor:
        """What codes [n, C] are divided by once their mean is subtracted: they then have a length of about 1."""
        return self.code_deviation * self.config.code_width**0.5

    def _slice(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Position i's query [1, D] and its slice of every weight, without the parts for later tokens."""
        s = slice(i - self.start, i - self.start + 1)
        weights = {name: weight[s] for name, weight in self._all_weights().items()}
        if self.reads_tokens:
            weights["told"] = weights["told"][:, : i * self.config.code_width]
        for name in weights:
            if name.endswith("_where"):
                weights[name] = weights[name][:, :, : self.config.latents + i]
        return self.query[s], weights

    def layer_matrices(self) -> list[nn.Parameter]:
        """The stacked matrices [n, rows, columns] of the experts' layers: attention and feed-forward."""
        parts = ("q", "k", "v", "out", "mlp_in", "mlp_out")
        return [self.weights[f"{layer}_{part}"] for layer in range(self.config.expert_depth) for part in parts]

    def readout_matrices(self) -> list[nn.Parameter]:
        """The stacked matrices [n, rows, C] that codes are read by, from the state and from the codes before."""
        return [self.weights[name] for name in (("code", "told") if self.reads_tokens else ("code",))]

    def _all_weights(self) -> dict[str, Tensor]:
        return {**self.weights, "code_mean": self.code_mean, "code_deviation": self.code_deviation}

    def _attention(self, layer: int) -> dict[str, Tensor]:
        """The initial weights of a layer's attention."""
        raise NotImplementedError

    def grow_from(self, previous: "Experts") -> None:
        """Initialise every expert as a copy of the previous stage's last one (Hierarchical Native Training, 3.3).

        What belongs to the position is not copied: query, embedding, attention bias and the prediction from codes.
        """
        with torch.no_grad():
            for name, mine in self.weights.items():
                if mine.shape[1:] == previous.weights[name].shape[1:]:
                    mine.copy_(previous.weights[name][-1:].expand_as(mine))

    def _state(self, query: Tensor, w: dict[str, Tensor], memory: Tensor, visible: Tensor | None) -> Tensor:
        """The final states [n, B, D] of queries [n, D]; `visible` [n, T] masks what each sees of memory [B, T, D]."""
        raise NotImplementedError

    def _mlp(self, x: Tensor, w: dict[str, Tensor], layer: int) -> Tensor:
        """The feed-forward half of a layer on [n, R, D]."""
        h = _norm(x, w[f"{layer}_mlp_norm"])
        h = F.gelu(torch.baddbmm(w[f"{layer}_mlp_in_bias"][:, None], h, w[f"{layer}_mlp_in"]))
        return x + h @ w[f"{layer}_mlp_out"]

    def _code(self, x: Tensor, earlier: Tensor, w: dict[str, Tensor]) -> Tensor:
        """Read codes [n, B, C] of about unit length from the query's state [n, B, D].

        A linear prediction from the codes before, `earlier` [n or 1, B, k * C], is subtracted (predictive vector
        quantisation). The rest is batch-normalised before it is quantised (Lancucki et al., arXiv 2005.08520), because
        most of the state is the query, which is the same for all images.
        """
        code = _norm(x, w["norm"]) @ w["code"]
        if self.reads_tokens:
            code = code - earlier @ w["told"]
        code = code.float()
        if self.training:
            mean, deviation = code.mean(1, keepdim=True), code.std(1, keepdim=True) + 1e-4
        else:
            mean, deviation = w["code_mean"][:, None], w["code_deviation"][:, None]
        return (code - mean) / (deviation * code.shape[-1] ** 0.5)


class CrossExperts(Experts):
    """The position query cross-attends to [latents; earlier tokens].

    With a single query, keys and values are never materialised: q . (W_k m) = (W_k^T q) . m, and the value projection
    is applied to the attended mixture: W_v (sum a m) = sum a (W_v m). So the memory is never projected.

    Each head has a learned attention bias that is the same for all images; it starts as a window on the image.
    """

    def _attention(self, layer: int) -> dict[str, Tensor]:
        config, n = self.config, self.end - self.start
        d, heads, grid = config.expert_width, config.expert_heads, config.image_size // config.patch_size
        places, side = (t[self.start :] for t in token_places(grid, self.end))
        corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).repeat(-(-heads // 4), 1)[:heads]
        centres = places[:, None] + corners * side[:, None, None] / 4
        distances = (centres[:, :, None] - patch_places(grid)).square().sum(-1)  # [n, H, N]
        where = -distances / 2 / (side[:, None, None] / 4).clamp_min(0.4).square()
        first = torch.eye(d // heads, d).repeat(heads, 1).T  # each head starts by copying the leading channels
        return {
            f"{layer}_where": F.pad(where, (0, self.end - 1), value=-4.0),
            f"{layer}_q": _stack(n, d, d),
            f"{layer}_k": _stack(n, d, d) * 0.1,
            f"{layer}_v": first.expand(n, d, d).clone() if layer == 0 else _stack(n, d, d),
            f"{layer}_out": torch.eye(d).expand(n, d, d).clone() if layer == 0 else torch.zeros(n, d, d),
        }

    def _state(self, query: Tensor, w: dict[str, Tensor], memory: Tensor, visible: Tensor | None) -> Tensor:
        b, _, d = memory.shape
        n, heads = query.shape[0], self.config.expert_heads
        x = query[:, None].expand(n, b, d)
        for layer in range(self.config.expert_depth):
            q = (_norm(x, w[f"{layer}_norm"]) @ w[f"{layer}_q"]).view(n, b, heads, d // heads)
            # per head: [n*H, B, d/H] @ [n*H, d/H, D]
            key = w[f"{layer}_k"].view(n, d, heads, d // heads).permute(0, 2, 3, 1).reshape(n * heads, d // heads, d)
            q = q.transpose(1, 2).reshape(n * heads, b, d // heads) @ key
            scores = (q.transpose(0, 1) @ memory.transpose(1, 2)) * (d // heads) ** -0.5  # [B, n*H, T]
            scores = scores + w[f"{layer}_where"].flatten(0, 1)
            if visible is not None:
                scores = scores.masked_fill(~visible.repeat_interleave(heads, dim=0), -math.inf)
            mixture = (scores.softmax(-1) @ memory).transpose(0, 1)  # [n*H, B, D]
            value = w[f"{layer}_v"].view(n, d, heads, d // heads).transpose(1, 2).reshape(n * heads, d, d // heads)
            x = x + (mixture @ value).view(n, heads, b, -1).transpose(1, 2).reshape(n, b, d) @ w[f"{layer}_out"]
            x = self._mlp(x, w, layer)
        return x


class SelfExperts(Experts):
    """The paper's expert: self-attention over [latents; earlier tokens; position query]; the query's state is read."""

    def _attention(self, layer: int) -> dict[str, Tensor]:
        n, d = self.end - self.start, self.config.expert_width
        # similar rows attend to each other, as in Attention
        equal = 1.4 * nn.init.orthogonal_(torch.empty(d, d)).expand(n, d, d)
        return {
            f"{layer}_q": equal.clone(),
            f"{layer}_k": equal.clone(),
            f"{layer}_v": _stack(n, d, d),
            f"{layer}_out": _stack(n, d, d),
        }

    def _state(self, query: Tensor, w: dict[str, Tensor], memory: Tensor, visible: Tensor | None) -> Tensor:
        b, t, d = memory.shape
        n, heads = query.shape[0], self.config.expert_heads
        x = torch.cat([memory.expand(n, b, t, d), query[:, None, None].expand(n, b, 1, d)], dim=2).reshape(
            n, b * (t + 1), d
        )
        hidden = None if visible is None else ~F.pad(visible, (0, 1), value=True)[:, None, None, None]
        for layer in range(self.config.expert_depth):
            h = _norm(x, w[f"{layer}_norm"])
            q, k, v = (
                (h @ w[f"{layer}_{part}"]).view(n, b, t + 1, heads, d // heads).transpose(2, 3) for part in "qkv"
            )
            scores = (q @ k.transpose(-1, -2)) * (d // heads) ** -0.5
            if hidden is not None:
                scores = scores.masked_fill(hidden, -math.inf)
            x = x + (scores.softmax(-1) @ v).transpose(2, 3).reshape(n, b * (t + 1), d) @ w[f"{layer}_out"]
            x = self._mlp(x, w, layer)
        return x.view(n, b, t + 1, d)[:, :, -1]


class ParallelExperts(Experts):
    """Heads instead of experts: position i reads the encoder's i-th token (TiTok, arXiv 2406.07550).

    No position sees another's token, so there is no order to learn. This is the unordered baseline.
    """

    reads_tokens = False

    def _attention(self, layer: int) -> dict[str, Tensor]:
        raise ValueError("expert_depth must be 0 for expert_kind 'parallel', whose heads have no layers")

    def _state(self, query: Tensor, w: dict[str, Tensor], memory: Tensor, visible: Tensor | None) -> Tensor:
        # for a single position, the memory's length says which one it is
        first = memory.shape[1] - self.config.latents if visible is None else self.start
        return memory[:, first : first + len(query)].transpose(0, 1)


def _stack(n: int, rows: int, columns: int) -> Tensor:
    return torch.randn(n, rows, columns) * rows**-0.5


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation of [n, R, D] with one scale [n, D] per expert."""
    return F.layer_norm(x, x.shape[-1:]) * scale[:, None]


# ---------------------------------------------------------------------------------------------------------------------
# Quantiser


class Quantiser(nn.Module):
    """One codebook for all positions: nearest of L2-normalised entries (ViT-VQGAN, arXiv 2110.04627).

    The codebook is updated by an exponential moving average of the codes (VQ-VAE, arXiv 1711.00937, appendix A.1).
    """

    codebook: Tensor
    counts: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        entries = F.normalize(torch.randn(config.codebook_size, config.code_width), dim=-1)
        self.register_buffer("codebook", entries)
        self.register_buffer("counts", torch.ones(config.codebook_size))

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes [..., C] to the ids int64 [...] of their nearest entries."""
        return (codes.float() @ self.codebook.T).argmax(-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Map ids int64 [...] to their entries [..., C]; an absent token (id K) maps to zeros."""
        return F.pad(self.codebook, (0, 0, 0, 1))[ids]

    @torch.no_grad()
    def follow(self, codes: Tensor, ids: Tensor, decay: float = 0.99) -> None:
        """Move entries towards the codes [M, C] assigned to them (ids [M]); restart entries that are hardly used."""
        chosen = torch.zeros_like(self.counts).index_add_(0, ids, torch.ones_like(ids, dtype=torch.float))
        sums = torch.zeros_like(self.codebook).index_add_(0, ids, codes.float())
        weight = decay * self.counts
        self.codebook.copy_(F.normalize(self.codebook * weight[:, None] + (1 - decay) * sums, dim=-1))
        self.counts.copy_(weight + (1 - decay) * chosen)
        dead = (self.counts < 0.1 * self.counts.mean()).nonzero()[:, 0]
        if len(dead):
            pick = torch.randint(len(codes), (len(dead),), device=codes.device)
            self.codebook[dead] = codes[pick].float()
            self.counts[dead] = self.counts.mean()


# ---------------------------------------------------------------------------------------------------------------------
# Decoder


class Decoder(nn.Module):
    """Decodes any prefix of the tokens to pixels.

    Each position has its own linear map from a token's code to all patches. Their sum is added to the mask embeddings,
    and the patches then attend to each other bidirectionally. A patch is drawn at twice its size, and overlapping
    patches are blended with a raised-cosine window, whose shifted copies sum to one, so that no patch borders show.
    """

    positions: Tensor
    window: Tensor
    near: Tensor
    coverage: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, grid, size = config.decoder_width, config.image_size // config.patch_size, config.patch_size
        self.patch_size, self.grid = size, grid
        # a token's meaning depends on its position, so each position has its own map from codes to patches
        self.token_embedding = nn.Parameter(torch.zeros(config.length, config.code_width, grid**2 * config.token_width))
        self.absent = nn.Parameter(torch.zeros(config.length, width))
        self.widen = nn.Linear(config.token_width, width)
        self.mask = nn.Parameter(torch.zeros(grid**2, width))
        self.register_buffer("positions", sincos(patch_places(grid), width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, config.decoder_heads) for _ in range(config.decoder_depth)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 3 * (2 * size) ** 2)
        ramp = torch.sin((torch.arange(2 * size) + 0.5) * math.pi / (2 * size)) ** 2
        window = (ramp[:, None] * ramp).flatten()
        self.register_buffer("window", window.repeat(3), persistent=False)
        self.register_buffer("near", _near(grid), persistent=False)
        whole = self._blend(torch.ones(1, grid**2, 1), window[:, None])
        self.register_buffer("coverage", whole, persistent=False)

    def forward(self, codes: Tensor, absent: Tensor) -> Tensor:
        """Map codes [B, k, C] and a mask of absent ones, bool [B, k], to pixels [B, 3, H, W] of about -1..1.

        k is L, or the length of an earlier stage while that stage is trained.
        """
        x = self.blocks(self.spread(codes, absent))
        # The window is applied to the weights, and the bias once for all images: both are smaller than the output.
        drawn = self._blend(self.norm(x), self.output.weight * self.window[:, None])
        bias = self._blend(torch.ones_like(x[:1, :, :1]), (self.output.bias * self.window)[:, None])
        return (drawn + bias) / self.coverage

    def spread(self, codes: Tensor, absent: Tensor) -> Tensor:
        """Map tokens to patches [B, N, width], before attention among patches."""
        b, k, _ = codes.shape
        content = codes.masked_fill(absent[..., None], 0).flatten(1) @ self.token_embedding[:k].flatten(0, 1)
        x = self.widen(content.view(b, self.grid**2, -1)) + self.mask + self.positions
        return x + (absent.to(x.dtype) @ self.absent[:k])[:, None]

    def _blend(self, x: Tensor, weight: Tensor) -> Tensor:
        """Draw patches [B, N, D] at twice their size by a weight [c * 2 size * 2 size, D] and sum them: [B, c, H, W].

        Four patches overlap on each quarter of a patch's square, each with one of its sixteen parts. So one matrix
        product gives a quarter of all squares. (`fold` does the same, but ONNX Runtime implements it only on the CPU.)
        """
        b, _, d = x.shape
        grid, half = self.grid, self.patch_size // 2
        parts = weight.view(-1, 4, half, 4, half, d)[:, _OVERLAP][:, :, :, _OVERLAP]
        quarters = parts.view(-1, 2, 2, half, 2, 2, half, d).permute(1, 4, 2, 5, 7, 0, 3, 6).reshape(4, 4 * d, -1)
        x = F.pad(x, (0, 0, 0, 1))  # beyond the border
        near = [x.index_select(1, ids.flatten()).view(b, grid**2, 4 * d) for ids in self.near]
        drawn = [x @ quarter for x, quarter in zip(near, quarters, strict=True)]
        squares = torch.stack(drawn, dim=1).view(b, 2, 2, grid, grid, -1, half, half)
        return squares.permute(0, 5, 3, 1, 6, 4, 2, 7).reshape(b, -1, 2 * half * grid, 2 * half * grid)


# Along one axis a patch is drawn in four parts. Listed are those that cover a square's upper half (its own patch's and
# the previous one's), then those that cover its lower half (its own patch's and the next one's).
_OVERLAP = [1, 3, 2, 0]


def _near(grid: int) -> Tensor:
    """The patches that overlap on each quarter of each patch's square, in the order of `_OVERLAP`: int64 [4, N, 4].

    Patches beyond the border have the index N.
    """
    ids = F.pad(torch.arange(grid**2).view(grid, grid), (1, 1, 1, 1), value=grid**2)
    quarters = []
    for down, right in itertools.product((-1, 1), repeat=2):
        around = [(0, 0), (0, right), (down, 0), (down, right)]
        quarters.append(torch.stack([ids.roll((-y, -x), (0, 1))[1:-1, 1:-1].flatten() for y, x in around], dim=1))
    return torch.stack(quarters)


# ---------------------------------------------------------------------------------------------------------------------
# Released weights


def save_weights(model: NativeTok, path: Path) -> None:
    """Write a model in its released form: fp16 safetensors with the configuration in the metadata.

    Raises ValueError with the names of weights that exceed the range of fp16, which would become infinite.
    """
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: these weights exceed the range of fp16: {', '.join(wrong)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"config": json.dumps(model.config.to_dict())})


def load_weights(path: Path) -> NativeTok:
    """Read released weights into a float32 model in evaluation mode."""
    with safetensors.safe_open(path, framework="pt") as file:
        config = ModelConfig(**json.loads(file.metadata()["config"]))
    model = NativeTok(config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval()
