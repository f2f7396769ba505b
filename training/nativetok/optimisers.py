"""Which optimiser trains which parameters, and at what rate."""

import torch
from torch import nn

from nativetok.config import TrainConfig
from nativetok.model import NativeTok
from nativetok.muon import Muon


def parameter_groups(model: NativeTok) -> dict[str, list[nn.Parameter]]:
    """Put every parameter that requires a gradient into one group, in the order in which the model lists them.

    - `muon`: matrices of the encoder's and the decoder's blocks.
    - `experts`: matrices of the experts' layers.
    - `linear`: maps that start as least-squares solutions, which larger steps would destroy.
    - `others`: everything else, such as norms, biases, queries and positions.
    """
    encoder, decoder, stages = model.encoder, model.decoder, model.mocet.experts
    blocks = {p for part in (encoder, decoder) for p in part.blocks.parameters() if p.ndim == 2}
    experts = {p for stage in stages for p in stage.layer_matrices()}
    linear = {*encoder.patch_embedding.parameters(), decoder.token_embedding, *decoder.output.parameters()}
    linear |= {p for stage in stages for p in stage.readout_matrices()}
    members = {"muon": blocks, "experts": experts, "linear": linear}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in (*members, "others")}
    for p in model.parameters():
        if p.requires_grad:
            groups[next((name for name, those in members.items() if p in those), "others")].append(p)
    return groups


def build_optimisers(model: NativeTok, train: TrainConfig) -> list[torch.optim.Optimizer]:
    """Build an optimiser for each group that has trainable parameters, its `lr` being the highest rate of a phase."""
    groups = parameter_groups(model)
    optimisers: list[torch.optim.Optimizer] = []
    if groups["muon"]:
        optimisers.append(Muon(groups["muon"], lr=train.muon_rate, weight_decay=train.weight_decay))
    rates = {"experts": train.expert_rate, "linear": train.linear_rate, "others": train.adam_rate}
    for name, rate in rates.items():
        if groups[name]:
            adam = torch.optim.AdamW(groups[name], lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
            optimisers.append(adam)
    return optimisers
