"""Configuration as data: one YAML file describes a model and its training run."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a NativeTok model. The defaults are those of `nativetok-128`."""

    image_size: int = 128
    patch_size: int = 16
    stages: tuple[int, ...] = (32, 64, 128)
    """Sequence length after each stage of Hierarchical Native Training; the last one is the full length."""
    codebook_size: int = 4096
    code_width: int = 12

    encoder_width: int = 256
    encoder_depth: int = 4
    encoder_heads: int = 4

    expert_kind: Literal["cross", "self", "parallel"] = "cross"
    """`self` is the paper's expert, `cross` the cheaper default, `parallel` the TiTok baseline (see `model.py`)."""
    feedback: int | None = None
    """Experts read the first so many codes after quantisation and the others before it; by default all after it."""
    expert_width: int = 96
    """Also the width of the latents: the dimension switcher maps the encoder width to it."""
    expert_depth: int = 2
    expert_heads: int = 4
    expert_mlp: int = 96

    token_width: int = 40
    """Channels per patch that a linear map produces from each token's code."""
    decoder_width: int = 256
    decoder_depth: int = 6
    decoder_heads: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError if sizes do not fit together."""
        object.__setattr__(self, "stages", tuple(self.stages))
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if list(self.stages) != sorted(set(self.stages)) or self.stages[0] < 1:
            raise ValueError(f"stages must be positive and increasing, not {self.stages}")
        if self.expert_kind not in ("cross", "self", "parallel"):
            raise ValueError(f"expert_kind must be 'cross', 'self' or 'parallel', not {self.expert_kind!r}")
        for part in ("encoder", "expert", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % heads:
                raise ValueError(f"{part}_width {width} is not a multiple of {part}_heads {heads}")
        if self.feedback is not None and not 0 <= self.feedback <= self.stages[-1]:
            raise ValueError(f"feedback must be 0 to {self.stages[-1]}, not {self.feedback}")
        if self.token_width > self.decoder_width:
            raise ValueError(f"token_width {self.token_width} is larger than decoder_width {self.decoder_width}")

    @property
    def length(self) -> int:
        """The full sequence length."""
        return self.stages[-1]

    def hears_quantised(self, position: int) -> bool:
        """Whether later experts read a position's code after quantisation."""
        return self.feedback is None or position < self.feedback

    @property
    def latents(self) -> int:
        """The number of latents of an image: one per patch, or one per token for `parallel`."""
        return self.length if self.expert_kind == "parallel" else (self.image_size // self.patch_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready data."""
        return {**asdict(self), "stages": list(self.stages)}


@dataclass(frozen=True)
class TrainConfig:
    """How a run trains."""

    stage_images: tuple[int, ...]
    """Images per stage of Hierarchical Native Training. A budget in images makes a resumed run the same run."""
    joint_images: int = 0
    """Images for the joint fine-tuning of all parts after the last stage; 0 skips it. It changes all tokens."""
    batch_size: int = 32
    initialisation_images: int = 8192
    """How many training images the data-dependent initialisation uses; 0 starts from random weights."""
    muon_rate: float = 0.003
    """Muon's learning rate for the matrices of encoder and decoder blocks."""
    expert_rate: float = 5e-4
    """AdamW's learning rate for the experts' matrices: there are so many that orthogonalising them does not pay."""
    adam_rate: float = 1e-3
    """AdamW's learning rate for everything else."""
    linear_rate: float = 2e-4
    """AdamW's learning rate for maps that start as least-squares solutions."""
    weight_decay: float = 0.01
    warmup_steps: int = 30
    tail_drop: float = 0.35
    """The share of each batch whose sequences lose a random tail."""
    noise: float = 0.0
    """Standard deviation, in grey levels of 0..255, of gaussian noise that only the encoder sees."""
    ema_decay: float = 0.99
    seed: int = 0
    validate_every: int = 200
    """Steps between validations; each one also saves a checkpoint."""
    validation_images: int = 256
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 if the hardware has matrix units for it, else float32."""


@dataclass(frozen=True)
class RunConfig:
    """A model and how to train it: one YAML file."""

    model: ModelConfig
    train: TrainConfig

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a YAML file. Raises ValueError for unknown keys and for sizes that do not fit together."""
        data = yaml.safe_load(path.read_text())
        train = dict(data["train"])
        train["stage_images"] = tuple(train["stage_images"])
        config = cls(_build(ModelConfig, data["model"]), _build(TrainConfig, train))
        if len(config.train.stage_images) != len(config.model.stages):
            raise ValueError(
                f"{path}: stage_images has {len(config.train.stage_images)} entries, "
                f"but the model has {len(config.model.stages)} stages"
            )
        return config


T = TypeVar("T")


def _build(kind: type[T], values: dict[str, Any]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(values) - known:
        raise ValueError(f"unknown keys for {kind.__name__}: {', '.join(sorted(unknown))}")
    return kind(**values)
