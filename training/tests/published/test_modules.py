"""The modules compute what was computed in float64 by modules that had been compared with the authors' code."""

import numpy as np
import pytest
import torch

from nativetok.published.nativetok import NativeTok

from .fixtures import CAUSAL, NAMES, expected, model_of


@pytest.mark.parametrize("name", NAMES)
def test_codes_tokens_and_pixels(name: str) -> None:
    model, want = model_of(name), expected(name)
    images, tokens = torch.from_numpy(want["images"]), torch.from_numpy(want["tokens"]).long()
    codes = model.codes(images).numpy().transpose(0, 2, 1)[:, :, None]
    np.testing.assert_allclose(codes, want["latents"], atol=2e-5)
    assert (model.encode(images) == tokens).all()
    np.testing.assert_allclose(model.draw(tokens).numpy(), want["pixels"], atol=5e-5)
    assert np.abs(model.decode(tokens).numpy().astype(int) - want["pixels_u8"]).max() <= 1


@pytest.mark.parametrize("name", CAUSAL)
def test_what_experts_read_and_say_and_prefixes(name: str) -> None:
    model, want = model_of(name), expected(name)
    assert isinstance(model, NativeTok)
    meta = model.encoder.read(model.scaled(torch.from_numpy(want["images"])))
    np.testing.assert_allclose(meta.numpy(), want["meta"], atol=2e-5)
    said = model.encoder.speak(meta, model.latent_tokens)
    np.testing.assert_allclose(said.numpy(), want["experts"], atol=2e-5)
    prefix = torch.from_numpy(want["tokens"][:, : int(want["prefix_length"])]).long()
    assert np.abs(model.decode(prefix).numpy().astype(int) - want["prefix_pixels_u8"]).max() <= 1
    assert np.abs(want["prefix_pixels_u8"].astype(int) - want["pixels_u8"]).max() > 20  # a prefix is another picture


def test_fixtures_tell_images_apart() -> None:
    for name in NAMES:
        assert len(np.unique(expected(name)["tokens"], axis=0)) == len(expected(name)["images"])
