"""Names and cells in, lines of a text table out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

CELL = 9  # characters


def row(name: str, cells: Sequence[str], width: int) -> str:
    """A line: the name at the left, the cells in columns."""
    return f"{name:<{width}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def per_cent(shares: Iterable[float]) -> list[str]:
    """Shares in per cent, as papers print them."""
    return [f"{100 * share:.2f}" for share in shares]
