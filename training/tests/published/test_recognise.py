"""Families are told by their keys, sizes by shapes; what is not known is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nativetok.published.checkpoint import CheckpointError
from nativetok.published.nativetok import NativeTokSizes
from nativetok.published.recognise import Options, load, read_config, recognise, with_pixels

from .fixtures import CHECKPOINTS, HEADS, NAMES, checkpoint_of, tensors_of

TITLES = {
    "titok-legacy": "TiTok, legacy kind, stage 2",
    "titok-newer": "TiTok, newer kind (VQ)",
    "nativetok-b": "NativeTok, variant B",
    "nativetok-a": "NativeTok, variant A",
}


def read(tensors: dict[str, Tensor], config: dict[str, Any] | None = None, **options: Any) -> Any:
    return recognise(checkpoint_of(tensors), config, Options(**({"heads": {"encoder": 1, "decoder": 1}} | options)))


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    config = read_config(CHECKPOINTS / name / "config.json")
    config["model"]["vq_model"] |= changes
    return config


@pytest.mark.parametrize("name", NAMES)
def test_family_and_sizes(name: str) -> None:
    result = recognise(checkpoint_of(tensors_of(name)), None, Options(heads=HEADS[name]))
    sizes = result.sizes
    assert result.title == TITLES[name]
    assert (sizes.image, sizes.length, sizes.codebook_size, sizes.code_width) == (32, 8, 64, 12)
    assert (sizes.encoder.width, sizes.encoder.layers, sizes.encoder.heads, sizes.encoder.patch) == (32, 2, 4, 4)
    assert (sizes.decoder.width, sizes.decoder.layers, sizes.decoder.heads, sizes.decoder.patch) == (16, 2, 2, 4)
    assert sizes.normalised == (name != "titok-newer")  # as published, where nobody says it
    assert (sizes.pixels is None) == (name == "titok-newer")


def test_numbers_of_heads_that_nobody_says() -> None:
    assert recognise(checkpoint_of(tensors_of("titok-newer"))).unset == ("encoder", "decoder")
    result = recognise(checkpoint_of(tensors_of("nativetok-a")))
    assert result.unset == ("decoder",)
    assert isinstance(result.sizes, NativeTokSizes)
    assert (result.sizes.encoder.heads, result.sizes.experts.heads) == (4, 4)
    result = recognise(checkpoint_of(tensors_of("nativetok-b")))
    assert result.sizes.encoder.heads == 16
    assert result.origins["encoder"] == "assumed, as published"


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(CheckpointError, match=r"5 heads do not divide the encoder's width of 32"):
        read(tensors_of("titok-legacy"), heads={"encoder": 5})
    with pytest.raises(CheckpointError, match=r"no part 'experts'"):
        read(tensors_of("titok-legacy"), heads={"experts": 4, "encoder": 1, "decoder": 1})


REFUSED: list[tuple[str, dict[str, list[int]], str]] = [
    ("titok-legacy", {"in_blocks.0.ln.weight": [4]}, "is a generator"),
    ("titok-legacy", {"lm_head.weight": [9, 4]}, "is a generator"),
    ("titok-legacy", {"model.embeddings.word_embeddings.weight": [9, 4]}, "is a generator"),
    ("titok-newer", {"decoder.text_guidance_proj.weight": [16, 768]}, "is a TA-TiTok"),
    ("titok-legacy", {"encoder.transformers.0.0.ln_1.weight": [4]}, "variant C"),
    ("titok-newer", {"encoder.down.0.weight": [4], "transformer.transformer.0.ln_1.weight": [4]}, "variant D"),
    ("titok-legacy", {"encoder.conv_out.weight": [24, 32, 1, 1]}, r"a VAE \(KL\)"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(name: str, changes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tensors_of(name) | {key: torch.zeros(shape) for key, shape in changes.items()})


def test_more_that_is_refused_by_name() -> None:
    tensors = tensors_of("titok-legacy")
    del tensors["quantize.embedding.weight"]
    with pytest.raises(CheckpointError, match=r"a VAE \(KL\)"):
        read(tensors)
    maskgit = {"encoder.down.0.w": [1], "decoder.up.0.w": [1], "quantize.embedding.weight": [1024, 8]}
    with pytest.raises(CheckpointError, match="MaskGIT-VQGAN alone"):
        read({key: torch.zeros(shape) for key, shape in maskgit.items()})
    with pytest.raises(CheckpointError, match=r'no known family: its first key is "visual\.proj"'):
        read({"visual.proj": torch.zeros(2)})
    tensors = tensors_of("nativetok-b")
    del tensors["encoder.ln_pre_Pixel.weight"]
    with pytest.raises(CheckpointError, match="no known variant"):
        read(tensors)


@pytest.mark.parametrize("name", NAMES)
def test_weights_must_be_all_there_in_shape_and_no_others(name: str) -> None:
    heads = {"heads": HEADS[name]}
    with pytest.raises(CheckpointError, match=r'holds "encoder\.extra\.weight", which'):
        read(tensors_of(name) | {"encoder.extra.weight": torch.zeros(1), "z": torch.zeros(1)}, **heads)
    tensors = tensors_of(name)
    del tensors["decoder.transformer.1.mlp.c_fc.bias"]
    with pytest.raises(CheckpointError, match=r'lacks "decoder\.transformer\.1\.mlp\.c_fc\.bias"'):
        read(tensors, **heads)
    with pytest.raises(CheckpointError, match=r'"decoder\.mask_token" has the shape \[1, 16\]; \[1, 1, 16\] expected'):
        read(tensors_of(name) | {"decoder.mask_token": torch.zeros(1, 16)}, **heads)
    with pytest.raises(CheckpointError, match=r'"decoder\.mask_token" is of type int64'):
        read(tensors_of(name) | {"decoder.mask_token": torch.zeros(1, 1, 16, dtype=torch.int64)}, **heads)
    assert read(tensors_of(name) | {"quantize.embed_prob": torch.zeros(64)}, **heads)
    broken = tensors_of(name)
    broken["decoder.mask_token"][0, 0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r'"decoder\.mask_token" holds numbers that are not finite'):
        load(read(broken, **heads), checkpoint_of(broken))


def test_configuration_says_what_shapes_do_not() -> None:
    result = read(tensors_of("titok-legacy"), config_of("titok-legacy", use_l2_norm=False))
    assert not result.sizes.normalised
    assert result.origins["normalised"] == "config.json"
    with pytest.raises(CheckpointError, match="the option and its configuration disagree about whether codes"):
        read(tensors_of("titok-legacy"), config_of("titok-legacy"), normalised=False)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("titok-legacy", {"codebook_size": 128}, "codebook_size is 128 there and 64 here"),
        ("titok-legacy", {"num_latent_tokens": 16}, "num_latent_tokens is 16 there and 8 here"),
        ("titok-legacy", {"is_legacy": False}, "is_legacy is False there and True here"),
        ("titok-newer", {"is_legacy": True}, "is_legacy is True there and False here"),
        ("titok-newer", {"vit_dec_patch_size": 16}, "vit_dec_patch_size is 16 there and 4 here"),
        ("titok-legacy", {"quantize_mode": "vae"}, "a VAE"),
    ],
)
def test_configuration_and_weights_must_agree(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tensors_of(name), config_of(name, **changes))


def test_configuration_without_is_legacy_is_of_a_legacy_model() -> None:
    config = config_of("titok-newer")
    del config["model"]["vq_model"]["is_legacy"]
    with pytest.raises(CheckpointError, match="is_legacy is True there and False here"):
        read(tensors_of("titok-newer"), config)
    assert "is_legacy" not in config_of("titok-legacy")["model"]["vq_model"]
    config = config_of("titok-legacy")
    config["dataset"]["preprocessing"]["crop_size"] = 256
    with pytest.raises(CheckpointError, match="crop_size is 256 there, and the weights are for 32 pixels"):
        read(tensors_of("titok-legacy"), config)


def test_configuration_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content in ("{}", "[1]", "not json", json.dumps({"model": {"vq_model": 3}})):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.json is no configuration of a tokenizer"):
            read_config(path)


def maskgit() -> dict[str, Tensor]:
    """A MaskGIT-VQGAN file with the pixel weights of a fixture."""
    tensors = {
        key.removeprefix("pixel_"): tensor
        for key, tensor in tensors_of("titok-legacy").items()
        if key.startswith("pixel_")
    }
    return tensors | {"encoder.down.0.block.0.conv1.weight": torch.zeros(32, 32, 3, 3)}


@pytest.mark.parametrize("name", ["titok-legacy", "nativetok-b"])
def test_stage_1_takes_its_pixels_from_another_file(name: str) -> None:
    whole = tensors_of(name)
    if name == "titok-legacy":
        without = {key: t for key, t in whole.items() if not key.startswith("pixel_")}
        message = "of stage 1, without a pixel decoder: give maskgit-vqgan-imagenet-f16-256.bin with --pixels"
    else:
        without = whole | {"pixel_quantize.embedding.weight": torch.rand(1024, 8) / 1024}
        message = "its own pixel weights are untrained: give maskgit-vqgan-imagenet-f16-256.bin with --pixels"
    with pytest.raises(CheckpointError, match=message):
        read(without, heads=HEADS[name])
    joined = with_pixels(checkpoint_of(without), checkpoint_of(maskgit()))
    assert set(joined.tensors) == set(whole)
    load(recognise(joined, None, Options(heads=HEADS[name])), joined)
    with pytest.raises(CheckpointError, match="is not a MaskGIT-VQGAN checkpoint"):
        with_pixels(checkpoint_of(without), checkpoint_of(whole))


def test_stage_1_of_titok_draws_the_likeliest_code() -> None:
    result = read(tensors_of("titok-legacy"), config_of("titok-legacy", finetune_decoder=False))
    assert result.title == "TiTok, legacy kind, stage 1"
    assert result.sizes.hard
