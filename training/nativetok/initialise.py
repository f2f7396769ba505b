"""Data-dependent initialisation: the model starts as a linear codec with the structure of the model.

So training starts from a working tokenizer. Transformer blocks start as the identity; patches are embedded and drawn by
their principal components; each position's code starts as the linear map that explains most of what the earlier codes
leave unexplained; the decoder's linear maps start as regressions on the codes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nativetok.model import NativeTok, patches, to_pixels

THUMBNAIL = 32
"""Side in pixels of the thumbnails that the codes are fitted to explain."""
UNQUANTISED_SHARE = 0.5
"""How much of what codes before quantisation predict is subtracted. The whole would leave later positions nothing of
what was lost when those codes were quantised; nothing would let them repeat it all. Half starts best (docs/notes)."""
OUTPUT_IMAGES = 1024
"""How many images the output layer is fitted to."""


@torch.no_grad()
def initialise_stage(model: NativeTok, stage: int, images: Tensor) -> None:
    """Initialise a stage's experts and the decoder's part for them from training images uint8 [M, H, W, 3].

    The first stage also initialises the encoder and the rest of the decoder. The model must be in evaluation mode.
    Raises ValueError for `parallel` models: their learned tokens would start out the same for every image.
    """
    if model.config.expert_kind == "parallel":
        raise ValueError(
            "initialisation_images must be 0 for expert_kind 'parallel', which cannot start as a linear codec"
        )
    pixels = to_pixels(images)
    if stage == 0:
        _initialise_encoder(model, pixels)
    latents = torch.cat([model.encoder(batch) for batch in pixels.split(256)])
    codes = _initialise_experts(model, stage, pixels, latents)
    _initialise_embeddings(model, stage, pixels, codes)
    if stage == 0:
        _initialise_output(model, pixels[:OUTPUT_IMAGES], codes[:OUTPUT_IMAGES])


def _initialise_encoder(model: NativeTok, pixels: Tensor) -> None:
    """Embed patches by their principal components; the leading ones become the latents."""
    encoder = model.encoder
    mean, components = _principal_components(patches(pixels, model.config.patch_size), model.config.encoder_width)
    encoder.patch_embedding.weight.zero_()[: len(components)] = components
    encoder.patch_embedding.bias.copy_(-(encoder.patch_embedding.weight @ mean))
    torch.nn.init.eye_(encoder.dimension_switcher.weight)
    encoder.dimension_switcher.bias.zero_()


def _initialise_experts(model: NativeTok, stage: int, pixels: Tensor, latents: Tensor) -> Tensor:
    """Initialise the readout of a stage's positions in order; return the codes [M, end, C] of all positions so far.

    A position reads those directions of its state that explain most of what earlier codes leave unexplained of the
    thumbnails (reduced-rank regression). What earlier codes predict of these directions is subtracted.
    """
    config, mocet, quantiser = model.config, model.mocet, model.quantiser
    thumbnails = F.avg_pool2d(pixels, config.image_size // THUMBNAIL).flatten(1)
    unexplained = thumbnails - thumbnails.mean(0)
    basis = latents.new_empty(len(latents), 0)  # orthonormal, spans the centred codes so far
    codes = latents.new_empty(len(latents), 0, config.code_width)
    said = codes
    shares = torch.tensor([1 if config.hears_quantised(i) else UNQUANTISED_SHARE for i in range(config.length)])
    shares = shares.to(latents.device).repeat_interleave(config.code_width)
    memory = latents
    for experts in mocet.experts[: stage + 1]:
        for i in range(experts.start, experts.end):
            if experts.start == mocet.experts[stage].start:
                state = experts.state(i, memory)
                state = state - state.mean(0)
                residual = state - basis @ (basis.T @ state)
                whiten = _whitening(residual)
                explains = (residual @ whiten).T @ unexplained
                directions = torch.linalg.eigh(explains @ explains.T).eigenvectors.flip(1)[:, : config.code_width]
                head = whiten @ directions
                experts.weights["code"][i - experts.start] = head
                if i > 0:
                    regression = _regression(said.flatten(1), state @ head)
                    regression *= shares[: len(regression), None]
                    experts.weights["told"][i - experts.start, : len(regression)] = regression
                experts.calibrate(i, memory, said)
            heard, ids = mocet.say(experts, i, memory, said, quantiser)
            code = quantiser.lookup(ids)
            codes = torch.cat([codes, code[:, None]], dim=1)
            said = torch.cat([said, heard[:, None]], dim=1)
            memory = torch.cat([memory, experts.embed(mocet.token_embedding, heard[:, None], i)], dim=1)
            new, scale = torch.linalg.qr((code - code.mean(0)) - basis @ (basis.T @ (code - code.mean(0))))
            new = new * (scale.diagonal().abs() > 1e-3 * code.norm())  # with few images the codes soon span everything
            unexplained -= new @ (new.T @ unexplained)
            basis = torch.cat([basis, new], dim=1)
    return codes


def _initialise_embeddings(model: NativeTok, stage: int, pixels: Tensor, codes: Tensor) -> None:
    """Initialise the maps from a stage's codes to patches: regressions of what earlier codes leave unexplained."""
    config, decoder, start = model.config, model.decoder, model.mocet.experts[stage].start
    rows = patches(pixels, config.patch_size)
    mean, components = _principal_components(rows, config.token_width)
    content = (rows - mean) @ components.T  # [M, N, token width]
    residual = content.flatten(1) - content.flatten(1).mean(0)
    if stage > 0:
        before = codes[:, :start].flatten(1)
        residual -= (before - before.mean(0)) @ _regression(before, residual)
    regression = _regression(codes[:, start:].flatten(1), residual)
    decoder.token_embedding[start : codes.shape[1]] = regression.view(-1, config.code_width, regression.shape[1])
    if stage == 0:
        decoder.mask.zero_()[:, : config.token_width] = content.mean(0)
        torch.nn.init.eye_(decoder.widen.weight)
        decoder.widen.bias.zero_()


def _initialise_output(model: NativeTok, pixels: Tensor, codes: Tensor) -> None:
    """Initialise the output layer as the regression of the pixels around a patch on the decoder's state there."""
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

    Components are scaled so that each keeps the square root of its deviation: coarse ones lead, fine ones still count.
    """
    rows = rows.flatten(0, -2)
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
    deviations = variances.flip(0)[:count].clamp_min(1e-6).sqrt()
    return mean, vectors.flip(1)[:, :count].T / (deviations[:, None] * deviations.mean()).sqrt()


def _whitening(rows: Tensor) -> Tensor:
    """The map [D, D] that gives centred rows [M, D] unit variance in all directions but those with almost none."""
    variances, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return vectors * (variances + 1e-4 * variances.max() + 1e-6).rsqrt()


def _regression(inputs: Tensor, outputs: Tensor, ridge: float = 0.02) -> Tensor:
    """The ridge regression [P, Q] of outputs [M, Q] on inputs [M, P], both centred first."""
    inputs, outputs = inputs - inputs.mean(0), outputs - outputs.mean(0)
    gram = inputs.T @ inputs
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return torch.cholesky_solve(inputs.T @ outputs, torch.linalg.cholesky(gram))
