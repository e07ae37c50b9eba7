"""`tal synth`: numbers of videos and a seed in, a folder with the Marionette benchmark out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from service.commands.bars import bars


def synth(
    out: Annotated[Path, typer.Argument(help="The folder: videos/ and annotations.json.")],
    train: Annotated[int, typer.Option(help="Videos to train on.")] = 120,
    val: Annotated[int, typer.Option(help="Videos to choose settings on.")] = 24,
    test: Annotated[int, typer.Option(help="Videos to measure on.")] = 128,
    seed: Annotated[int, typer.Option(help="Draws all of it; the same seed gives the same videos.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; default as many as there are cores.")] = None,
) -> None:
    """Videos of figures that perform known actions, with the truth beside them: to train, to measure, to try out.

    A run that was ended goes on where it was.
    """
    from training.marionette import benchmark  # noqa: PLC0415  (doors import training inside the command that needs it)

    plan = benchmark.Plan(train, val, test, seed)
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bars(*columns) as progress:
        bar = progress.add_task("videos", total=train + val + test)
        truth = benchmark.generate(
            out,
            plan,
            workers or os.cpu_count() or 1,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    typer.echo(truth)
