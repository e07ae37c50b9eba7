"""`tal pretrain`: a plan in; a backbone that was trained on clips of annotated videos out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from service.commands.train import progress, tell_validation
from service.errors import InvalidOptions


def pretrain(
    plan: Annotated[Path, typer.Argument(help="JSON: videos, truth, backbone and settings; docs/training.md.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder: weights, curve, result, recipe.")],
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the folder's last checkpoint, or start anew.")
    ] = True,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="In place of the plan's.")] = None,
) -> None:
    """Trains a backbone to name the actions in clips of annotated videos."""
    runs = _pretraining()
    wanted = runs.read(plan, {} if seed is None else {"seed": seed})
    with progress() as follow:
        done = runs.run(wanted, plan.parent, out, device, follow, tell_validation, fresh=not resume)
    typer.echo(
        f"{out}: {done.document['steps']} steps, {done.document['seconds']:.0f} s, {done.document['validation']}",
        err=True,
    )


def _pretraining() -> ModuleType:
    """What trains; serving installs no torch, so it may be missing."""
    try:
        from training import pretrain as runs  # noqa: PLC0415  (doors import the trainer inside the command that needs it)
    except ModuleNotFoundError as error:
        raise InvalidOptions(
            f"tal pretrain needs {error.name}, which is not installed: pip install '.[train]'"
        ) from None
    return runs
