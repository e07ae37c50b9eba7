"""Columns in; progress bars for a terminal, silent in a pipe, out."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def bars(*columns: ProgressColumn) -> Progress:
    """Gone when the work is done; by default description, bar, per cent and the time that remains."""
    usual = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*(columns or usual), console=console, transient=True, disable=not console.is_terminal)
