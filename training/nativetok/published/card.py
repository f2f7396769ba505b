"""A bundle's model card: where its weights came from, what they were taken for, and what was verified."""

from typing import Any

from nativetok.published.bundle import Source
from nativetok.published.nativetok import NativeTokSizes
from nativetok.published.probe import ProbeResult
from nativetok.published.recognise import LABELS, Recognised
from nativetok.published.storage import Storage


def model_card(
    name: str,
    recognised: Recognised,
    source: Source,
    storage: Storage,
    images: str,
    parity: dict[str, Any],
    rounding: dict[str, Any] | None,
    probe: ProbeResult | None,
) -> str:
    """Write the card in Markdown. `images` says on which images the figures were measured."""
    sections = [
        f"# {name}\n\n{recognised.title}, converted by `nativetok.convert`. These weights are not this project's.",
        _source(source, recognised),
        _taken(recognised),
        _verified(images, parity, storage, rounding),
        *([_probe(probe)] if probe else []),
        _unverified(recognised, source, probe),
    ]
    return "\n\n".join(sections) + "\n"


def _source(source: Source, recognised: Recognised) -> str:
    rows = [("file", f"`{source.file}`"), ("sha256", f"`{source.sha256}`"), ("from", source.url or "not stated")]
    return "## Weights\n\n" + _table(["", ""], [*rows, ("licence", source.licence)])


def _taken(recognised: Recognised) -> str:
    sizes = recognised.sizes
    encoder, decoder = sizes.encoder, sizes.decoder
    rows = [
        ("image", f"{sizes.image} x {sizes.image}, patches of {encoder.patch}", "shapes"),
        ("tokens", f"{sizes.length} of {sizes.codebook_size} entries, {sizes.code_width} wide", "shapes"),
        ("encoder", f"{encoder.width} wide, {encoder.layers} blocks", "shapes"),
        ("encoder's heads", str(encoder.heads), recognised.origins["encoder"]),
    ]
    if isinstance(sizes, NativeTokSizes):
        experts = sizes.experts
        rows += [
            ("experts", f"{sizes.length}, {experts.width} wide, {experts.layers} blocks each", "shapes"),
            ("experts' heads", str(experts.heads), recognised.origins["experts"]),
        ]
    rows += [
        ("decoder", f"{decoder.width} wide, {decoder.layers} blocks", "shapes"),
        ("decoder's heads", str(decoder.heads), recognised.origins["decoder"]),
        ("codes normalised (L2)", "yes" if sizes.normalised else "no", recognised.origins["normalised"]),
        ("range of pixels", "-1..1" if sizes.signed else "0..1", recognised.origins["signed"]),
    ]
    return "## What it was taken for\n\n" + _table(["", "", "said by"], rows)


def _verified(images: str, parity: dict[str, Any], storage: Storage, rounding: dict[str, Any] | None) -> str:
    text = (
        f"## What was verified\n\nThe graphs, run with ONNX Runtime on a CPU, against PyTorch on {images}:\n\n"
        + _table(
            ["", ""],
            [
                ("tokens equal", f"{parity['tokens_equal']:.4%} of {parity['tokens']}"),
                ("largest difference of codes before quantisation", f"{parity['largest_code_difference']:.1e}"),
                ("largest difference of pixels in 0..1", f"{parity['largest_pixel_difference']:.1e}"),
                ("lengths decoded", str(parity["lengths_decoded"])),
            ],
        )
        + f"\n\nWeights are stored as {storage}."
    )
    if rounding:
        text += (
            f" Rounding them changed codes by {rounding['largest_code_change']:.1e} at most and left "
            f"{rounding['tokens_equal']:.2%} of the tokens of the same images as they are with float32 weights."
        )
    return text


def _probe(probe: ProbeResult) -> str:
    rows = [(candidate.label, f"{candidate.psnr:.2f}") for candidate in probe.candidates]
    return (
        f"## Probe\n\nReconstruction of {probe.photos} photos under the candidates that were tried, mean PSNR in dB. "
        f"Each photo's mean colour alone has {probe.blank:.2f} dB.\n\n" + _table(["candidate", "PSNR"], rows)
    )


def _unverified(recognised: Recognised, source: Source, probe: ProbeResult | None) -> str:
    lines = []
    if assumed := [LABELS[what] for what, origin in recognised.origins.items() if origin.startswith("assumed")]:
        lines.append(f"No file says these, and nobody did; they were assumed as published: {', '.join(assumed)}.")
    if not probe:
        lines.append("No photo was reconstructed to see whether the tokenizer draws what it was shown.")
    if isinstance(recognised.sizes, NativeTokSizes):
        lines.append(
            "NativeTok's authors published weights without code. How the encoder computes is what their earlier public "
            "code does with weights of these names."
        )
        lines.append("The licence of NativeTok's published weights is not established.")
    elif source.licence == "unknown":
        lines.append("The licence of the weights was not stated.")
    lines.append("The checkpoint's authors had no part in this conversion.")
    return "## What was not verified\n\n" + "\n".join(f"- {line}" for line in lines)


def _table(head: list[str], rows: list[Any]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
