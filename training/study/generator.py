"""A small autoregressive generator over a tokenizer's tokens, to measure what their order is worth.

It reports the cost of sequences in bits at each position, and samples new ones for the tokenizer to decode.

python -m study.generator --weights TOKENIZER --classifier CLASSIFIER --data FOLDER --out RUN
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nativetok.classifier import embed, load_classifier
from nativetok.data import find_split, load_keyed_images, load_labels
from nativetok.metrics import frechet_distance, psnr
from nativetok.model import NativeTok, load_weights
from study.prefixes import prefix_lengths

BATCH = 64
RATE = 1e-3
WARMUP = 200
"""Steps in which the learning rate rises; after them it decays to zero along a cosine."""
WEIGHT_DECAY = 0.05
DROPOUT = 0.1
VALIDATE_EVERY = 250
SAMPLE_BATCH = 250
SHEET_COLUMNS = 12

Cache = tuple[Tensor, Tensor]
"""A block's keys and values [B, heads, T, width / heads] of earlier positions."""


@dataclass(frozen=True)
class GeneratorConfig:
    """The sizes of a generator."""

    labels: tuple[str, ...]
    """The classes; one more class stands for images without a label."""
    codebook_size: int
    length: int
    """Tokens per sequence."""
    width: int = 256
    depth: int = 6
    heads: int = 4


class CausalBlock(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Map [B, T, width] to the same shape, and return the cache; with a `past`, T must be 1."""
        b, t, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, t, width)))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), (k, v)


class Generator(nn.Module):
    """A class-conditional GPT over tokens: the class comes first, then the tokens."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.label = nn.Embedding(len(config.labels) + 1, config.width)
        self.token = nn.Embedding(config.codebook_size, config.width)
        self.position = nn.Parameter(torch.zeros(config.length, config.width))
        self.blocks = nn.ModuleList(CausalBlock(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.codebook_size)
        for name, p in self.named_parameters():
            if p.ndim > 1:  # GPT-2's initialisation: the more blocks there are, the less each one adds
                residual = name.endswith(("out.weight", "mlp.2.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.depth) if residual else 0.02)

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """Initialise input and output embeddings from unit-length codes [K, C], so that similar tokens start similar.

        Each token is rarely seen in training; this way its neighbours learn from it.
        """
        for weight in (self.token.weight, self.head.weight):
            weight.copy_(codebook @ torch.randn(codebook.shape[1], weight.shape[1]) * 0.02)
        self.head.bias.zero_()

    @property
    def unlabelled(self) -> int:
        """The class of images without a label."""
        return len(self.config.labels)

    def forward(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Predict each token of int64 [B, T] from the classes int64 [B] and the tokens before it: logits [B, T, K]."""
        x = torch.cat([self.label(labels)[:, None], self.token(tokens[:, :-1])], dim=1)
        x = x + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x))

    def bits(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """The cost of each token int64 [B, T] in bits [B, T]."""
        logits = self(labels, tokens).float()
        return F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none") / math.log(2)

    @torch.no_grad()
    def grow(
        self, labels: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """Sample sequences for classes int64 [B] token by token: yields int64 [B], `length` times."""
        caches: list[Cache | None] = [None] * len(self.blocks)
        x = self.label(labels)
        for position in self.position:
            x = (x + position)[:, None]
            for i, block in enumerate(self.blocks):
                x, caches[i] = block(x, caches[i])
            odds = (self.head(self.norm(x[:, 0])).float() / temperature).softmax(-1)
            token = torch.multinomial(odds, 1, generator=generator)[:, 0]
            yield token
            x = self.token(token)

    def sample(self, labels: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Sample sequences int64 [B, length] for classes int64 [B]."""
        return torch.stack(list(self.grow(labels, temperature, generator)), dim=1)


def save_generator(model: Generator, path: Path) -> None:
    """Write a generator in its released form: fp16 safetensors with the configuration in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, metadata={"config": json.dumps(asdict(model.config))})


def load_generator(path: Path) -> Generator:
    """Read a released generator: float32, in evaluation mode."""
    with safetensors.safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    model = Generator(GeneratorConfig(**{**config, "labels": tuple(config["labels"])}))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval()


# ---------------------------------------------------------------------------------------------------------------------
# Data


@dataclass(frozen=True)
class Split:
    """Photos uint8 [N, H, W, 3] with their tokens int64 [N, T] and classes int64 [N]."""

    photos: NDArray[np.uint8]
    tokens: Tensor
    classes: Tensor


def tokenize(tokenizer: NativeTok, photos: NDArray[np.uint8], length: int, batch: int = 64) -> Tensor:
    """Tokenize photos uint8 [N, H, W, 3] to int64 [N, length], with a progress bar."""
    batches = torch.from_numpy(photos).split(batch)
    return torch.cat([tokenizer.encode(part, length) for part in tqdm(batches, unit="batch", desc="tokenize")])


def load_split(root: Path, split: str, tokenizer: NativeTok, length: int, names: Sequence[str]) -> Split:
    """Load a split's photos with `length` tokens each; `names` are the labels of the classes, in order."""
    keys, photos = load_keyed_images(find_split(root, split), tokenizer.config.image_size)
    labels = load_labels(root / "labels.csv")
    classes = {name: i for i, name in enumerate(names)}
    picked = torch.tensor([classes.get(labels.get(key, ""), len(names)) for key in keys])
    return Split(photos, tokenize(tokenizer, photos, length), picked)


# ---------------------------------------------------------------------------------------------------------------------
# Training and metrics


def train(
    model: Generator, tokens: Tensor, classes: Tensor, sequences: int, held: Split, seed: int = 0
) -> list[dict[str, float]]:
    """Train a generator in place on `sequences` sequences, in a new random order each epoch.

    Returns:
        The log: sequences seen, training and validation bits per token, seconds so far.
    """
    torch.manual_seed(seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    steps = math.ceil(sequences / BATCH)
    order = torch.cat([torch.randperm(len(tokens)) for _ in range(math.ceil(steps * BATCH / len(tokens)))])
    log: list[dict[str, float]] = []
    losses: list[float] = []
    started = time.perf_counter()
    model.train()
    for step in tqdm(range(steps), unit="step", desc="train"):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        pick = order[step * BATCH : (step + 1) * BATCH]
        loss = model.bits(classes[pick], tokens[pick]).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == steps:
            entry = {
                "sequences": (step + 1) * BATCH,
                "train_bits": float(np.mean(losses)),
                "val_bits": float(bits_by_position(model, held).mean()),
                "seconds": time.perf_counter() - started,
            }
            tqdm.write("  ".join(f"{name} {value:.3f}" for name, value in entry.items()))
            log.append(entry)
            losses.clear()
            model.train()
    model.eval()
    return log


@torch.inference_mode()
def bits_by_position(model: Generator, split: Split) -> NDArray[np.float64]:
    """Mean cost in bits of a split's tokens by position, float64 [T]. Leaves the generator in evaluation mode."""
    model.eval()
    parts = zip(split.classes.split(BATCH), split.tokens.split(BATCH), strict=True)
    return torch.cat([model.bits(classes, tokens) for classes, tokens in parts]).double().mean(0).numpy()


def decode(tokenizer: NativeTok, tokens: Tensor, batch: int = 64) -> NDArray[np.uint8]:
    """Decode tokens int64 [N, T] to images uint8 [N, H, W, 3]."""
    return np.concatenate([tokenizer.decode(part).numpy() for part in tokens.split(batch)])


def draw(
    model: Generator, tokenizer: NativeTok, classes: Tensor, temperature: float, seed: int = 0
) -> NDArray[np.uint8]:
    """Sample an image uint8 [N, H, W, 3] for each class int64 [N]."""
    random = torch.Generator().manual_seed(seed)
    batches = tqdm(classes.split(SAMPLE_BATCH), unit="batch", desc="sample")
    return decode(tokenizer, torch.cat([model.sample(part, temperature, random) for part in batches]))


def contact_sheet(images: NDArray[np.uint8]) -> Image.Image:
    """Arrange images uint8 [N, H, W, 3] in rows of twelve."""
    rows = [images[i : i + SHEET_COLUMNS] for i in range(0, len(images) - SHEET_COLUMNS + 1, SHEET_COLUMNS)]
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write `generator.safetensors`, `generator.json` and `samples.jpg` into `--out`."""
    parser = argparse.ArgumentParser(prog="python -m study.generator", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="the tokenizer's weights, .safetensors")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier weights, for labels and features")
    parser.add_argument("--data", type=Path, required=True, help="data set with train and val splits and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--length", type=int, help="tokens per sequence (default: the tokenizer's length)")
    parser.add_argument("--sequences", type=int, default=72_000, help="sequences to train on (default 72,000)")
    parser.add_argument("--samples", type=int, default=5000, help="samples for the Fréchet distance (default 5,000)")
    parser.add_argument("--temperature", type=float, default=1.0, help="temperature of the samples (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed for weights, order and samples (default 0)")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    tokenizer, classifier = load_weights(options.weights), load_classifier(options.classifier)
    config = tokenizer.config
    length = options.length or config.length
    training = load_split(options.data, "train", tokenizer, length, classifier.labels)
    held = load_split(options.data, "val", tokenizer, length, classifier.labels)
    mirrored = tokenize(tokenizer, np.ascontiguousarray(training.photos[:, :, ::-1]), length)
    model = Generator(GeneratorConfig(classifier.labels, config.codebook_size, length))
    model.start_from(tokenizer.quantiser.codebook)
    tokens, classes = torch.cat([training.tokens, mirrored]), training.classes.repeat(2)
    log = train(model, tokens, classes, options.sequences, held, options.seed)
    save_generator(model, options.out / "generator.safetensors")

    random = torch.Generator().manual_seed(options.seed)
    pick = torch.randperm(len(training.photos), generator=random)[: options.samples]
    samples = draw(model, tokenizer, training.classes[pick], options.temperature, options.seed)
    photos = embed(classifier, training.photos)
    bits = bits_by_position(model, held)
    figures: dict[str, Any] = {
        "tokenizer": config.to_dict(),
        "generator": asdict(model.config),
        "sequences": options.sequences,
        "seed": options.seed,
        "temperature": options.temperature,
        "bits_by_position": [round(float(b), 4) for b in bits],
        "prefixes": {
            str(k): {
                "bits": float(bits[:k].sum()),
                "psnr": float(psnr(held.photos, decode(tokenizer, held.tokens[:, :k])).mean()),
            }
            for k in prefix_lengths(length)
        },
        "samples": len(samples),
        "frechet": frechet_distance(photos, embed(classifier, samples)),
        # the tokenizer's share: the generator's samples can hardly be closer to the photos than reconstructions are
        "frechet_reconstructions": frechet_distance(
            photos, embed(classifier, decode(tokenizer, training.tokens[pick]))
        ),
        "log": log,
    }
    (options.out / "generator.json").write_text(json.dumps(figures, indent=2) + "\n")
    contact_sheet(samples[: 6 * SHEET_COLUMNS]).save(options.out / "samples.jpg", quality=88)
    whole = figures["prefixes"][str(length)]
    print(f"{whole['bits']:.1f} bits per sequence, PSNR {whole['psnr']:.2f} dB, Fréchet {figures['frechet']:.2f}")


if __name__ == "__main__":
    main()
