import re
from dataclasses import replace
from pathlib import Path

import pytest

from nativetok.config import RunConfig
from nativetok.model import NativeTok
from nativetok.muon import Muon
from nativetok.optimisers import build_optimisers

CONFIG = RunConfig.load(Path(__file__).parents[1] / "configs" / "smoke.yaml")
TRAIN = CONFIG.train
MATRICES = r"(encoder|decoder)\.blocks\.\d+\.(attention\.(qkv|out)|mlp\.(0|2))\.weight"
EXPERTS = r"mocet\.stages\.\d+\.weights\.\d+_(q|k|v|out|mlp_in|mlp_out)"
LINEAR = (
    r"encoder\.patch_embedding\.(weight|bias)|decoder\.(token_embedding|output\.(weight|bias))"
    r"|mocet\.stages\.\d+\.weights\.(code|told)"
)


def intended_rate(name: str) -> float:
    rates = {MATRICES: TRAIN.muon_rate, EXPERTS: TRAIN.expert_rate, LINEAR: TRAIN.linear_rate}
    return next((rate for pattern, rate in rates.items() if re.fullmatch(pattern, name)), TRAIN.adam_rate)


@pytest.mark.parametrize("kind", ["cross", "self", "parallel"])
def test_each_parameter_is_trained_by_one_optimiser_at_its_rate(kind: str) -> None:
    shape = {"stages": (12,), "expert_depth": 0} if kind == "parallel" else {}
    model = NativeTok(replace(CONFIG.model, expert_kind=kind, **shape))  # type: ignore[arg-type]
    optimisers = build_optimisers(model, TRAIN)
    seen: set[float] = set()
    for name, parameter in model.named_parameters():
        (group,) = [g for o in optimisers for g in o.param_groups for p in g["params"] if p is parameter]
        assert group["lr"] == intended_rate(name), name
        assert group["weight_decay"] == (TRAIN.weight_decay if re.fullmatch(MATRICES, name) else 0), name
        seen.add(group["lr"])
    assert len(seen) == len(optimisers) == (3 if kind == "parallel" else 4)
    assert [type(optimiser) is Muon for optimiser in optimisers] == [True] + [False] * (len(optimisers) - 1)


def test_frozen_parameters_are_not_trained() -> None:
    model = NativeTok(CONFIG.model).requires_grad_(False)
    model.decoder.requires_grad_(True)
    trained = [p for o in build_optimisers(model, TRAIN) for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in trained} == {id(p) for p in model.decoder.parameters()}
