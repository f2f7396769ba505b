"""Writes tables and marked sections of Markdown pages."""

from collections.abc import Iterable, Mapping, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in the source."""
    lines = [list(header), *map(list, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def rebuild(text: str, contents: Mapping[str, str]) -> str:
    """Put each content between the markers of its name. Raises ValueError unless each marker occurs exactly once."""
    for name, content in contents.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{begin} and {end} must each occur exactly once")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n\n{content}\n\n{end}{after}"
    return text
