"""Data-dependent initialisation: the model starts as a good linear codec of its own structure.

Training then improves a tokenizer instead of finding one. Transformer blocks start as the identity; patches go in and
come out by their principal components; a position's code starts as what explains most of the images beyond what the
codes before explain; the decoder's linear maps start as regressions on the codes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nativetok.model import NativeTok, patches, to_pixels

THUMBNAIL = 32
"""Side of the thumbnails whose error the codes are chosen to lower."""
OUTPUT_IMAGES = 1024
"""How many images the output layer is fitted on."""


@torch.no_grad()
def initialise_stage(model: NativeTok, stage: int, images: Tensor) -> None:
    """Start the experts of a stage, and the decoder's part for them, from training images uint8 [M, H, W, 3].

    The first stage starts encoder and decoder too. The model is to be in evaluation mode. Raises ValueError for a model
    whose tokens are read out in parallel: at its start they would say the same of every image.
    """
    if model.config.expert_kind == "parallel":
        raise ValueError("a model of kind 'parallel' has no linear codec to start as: initialisation_images is to be 0")
    pixels = to_pixels(images)
    if stage == 0:
        _initialise_encoder(model, pixels)
    latents = torch.cat([model.encoder(batch) for batch in pixels.split(256)])
    codes = _initialise_experts(model, stage, pixels, latents)
    _initialise_embeddings(model, stage, pixels, codes)
    if stage == 0:
        _initialise_output(model, pixels[:OUTPUT_IMAGES], codes[:OUTPUT_IMAGES])


def _initialise_encoder(model: NativeTok, pixels: Tensor) -> None:
    """Patches enter by their principal components, of which the leading ones are the latents."""
    encoder = model.encoder
    mean, components = _principal_components(patches(pixels, model.config.patch_size), model.config.encoder_width)
    encoder.patch_embedding.weight.zero_()[: len(components)] = components
    encoder.patch_embedding.bias.copy_(-(encoder.patch_embedding.weight @ mean))
    torch.nn.init.eye_(encoder.dimension_switcher.weight)
    encoder.dimension_switcher.bias.zero_()


def _initialise_experts(model: NativeTok, stage: int, pixels: Tensor, latents: Tensor) -> Tensor:
    """Start the codes of a stage's positions, in order; return the codes [M, end, C] of all positions so far.

    A position's head takes from its state the directions that explain most of the thumbnails beyond what the codes
    before explain (reduced-rank regression), less what those codes tell of these directions already.
    """
    config, mocet, quantiser = model.config, model.mocet, model.quantiser
    thumbnails = F.avg_pool2d(pixels, config.image_size // THUMBNAIL).flatten(1)
    unexplained = thumbnails - thumbnails.mean(0)
    basis = latents.new_empty(len(latents), 0)  # orthonormal, of the same space as the centred codes so far
    codes = latents.new_empty(len(latents), 0, config.code_width)
    memory = latents
    for experts in mocet.experts[: stage + 1]:
        for i in range(experts.start, experts.end):
            if experts.start == mocet.experts[stage].start:
                state = experts.state(i, memory)
                state = state - state.mean(0)
                unsaid = state - basis @ (basis.T @ state)
                whiten = _whitening(unsaid)
                explains = (unsaid @ whiten).T @ unexplained
                directions = torch.linalg.eigh(explains @ explains.T).eigenvectors.flip(1)[:, : config.code_width]
                head = whiten @ directions
                experts.weights["code"][i - experts.start] = head
                if i > 0:
                    told = _regression(codes.flatten(1), state @ head)
                    experts.weights["told"][i - experts.start, : len(told)] = told
                experts.calibrate(i, memory, codes)
            code = quantiser.lookup(quantiser(experts.expert(i)(memory, codes)))
            codes = torch.cat([codes, code[:, None]], dim=1)
            memory = torch.cat([memory, experts.embed(mocet.token_embedding, code[:, None], i)], dim=1)
            new, scale = torch.linalg.qr((code - code.mean(0)) - basis @ (basis.T @ (code - code.mean(0))))
            new = new * (scale.diagonal().abs() > 1e-3 * code.norm())  # of few images, codes soon span all there is
            unexplained -= new @ (new.T @ unexplained)
            basis = torch.cat([basis, new], dim=1)
    return codes


def _initialise_embeddings(model: NativeTok, stage: int, pixels: Tensor, codes: Tensor) -> None:
    """What a stage's tokens say of each patch starts as the regression of what is unsaid before them on their codes."""
    config, decoder, start = model.config, model.decoder, model.mocet.experts[stage].start
    rows = patches(pixels, config.patch_size)
    mean, components = _principal_components(rows, config.token_width)
    content = (rows - mean) @ components.T  # [M, N, token width]
    unsaid = content.flatten(1) - content.flatten(1).mean(0)
    if stage > 0:
        before = codes[:, :start].flatten(1)
        unsaid -= (before - before.mean(0)) @ _regression(before, unsaid)
    told = _regression(codes[:, start:].flatten(1), unsaid)
    decoder.token_embedding[start : codes.shape[1]] = told.view(-1, config.code_width, told.shape[1])
    if stage == 0:
        decoder.mask.zero_()[:, : config.token_width] = content.mean(0)
        torch.nn.init.eye_(decoder.widen.weight)
        decoder.widen.bias.zero_()


def _initialise_output(model: NativeTok, pixels: Tensor, codes: Tensor) -> None:
    """The output layer starts as the regression of the pixels around a patch on the decoder's state there."""
    size, decoder = model.config.patch_size, model.decoder
    absent = torch.zeros(codes.shape[:2], dtype=torch.bool, device=codes.device)
    states = decoder.norm(decoder.blocks(decoder.spread(codes, absent))).flatten(0, 1)
    around = F.unfold(F.pad(pixels, [size // 2] * 4, mode="reflect"), kernel_size=2 * size, stride=size)
    around = around.transpose(1, 2).flatten(0, 1)
    weight = _regression(states, around)
    decoder.output.weight.copy_(weight.T)
    decoder.output.bias.copy_(around.mean(0) - states.mean(0) @ weight)


def _principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean [P] of rows [..., P] and their first principal components [count, P].

    Components are scaled to leave each the square root of its deviation: coarse ones lead and fine ones are heard.
    """
    rows = rows.flatten(0, -2)
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
    deviations = variances.flip(0)[:count].clamp_min(1e-6).sqrt()
    return mean, vectors.flip(1)[:, :count].T / (deviations[:, None] * deviations.mean()).sqrt()


def _whitening(rows: Tensor) -> Tensor:
    """The map [D, D] that gives centred rows [M, D] variance 1 in every direction, less where there is next to none."""
    variances, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return vectors * (variances + 1e-4 * variances.max() + 1e-6).rsqrt()


def _regression(inputs: Tensor, outputs: Tensor, ridge: float = 0.02) -> Tensor:
    """The ridge regression [P, Q] of outputs [M, Q] on inputs [M, P], both centred first."""
    inputs, outputs = inputs - inputs.mean(0), outputs - outputs.mean(0)
    gram = inputs.T @ inputs
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return torch.cholesky_solve(inputs.T @ outputs, torch.linalg.cholesky(gram))
