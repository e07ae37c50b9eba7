"""`tal train`: a plan in; a run's folder with weights, curves, predictions and figures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from service.commands.bars import bars
from service.errors import InvalidOptions

if TYPE_CHECKING:
    from training.loop import Step


def train(
    plan: Annotated[Path, typer.Argument(help="JSON: data, detector and settings; docs/training.md explains it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder: weights, curves, predictions, result.")],
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the folder's last checkpoint, or start anew.")
    ] = True,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="In place of the plan's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the plan's, warm-up not counted.")] = None,
) -> None:
    """Trains a detector, or a classifier of videos, on features; stopped at any moment, the same command goes on."""
    plans, runs, classifiers = _trainer()
    changes = {name: value for name, value in (("seed", seed), ("epochs", epochs)) if value is not None}
    if classifiers.asks_for_classifier(plan):
        plans = runs = classifiers
    wanted = plans.read(plan, changes)
    with progress() as follow:
        done = runs.run(wanted, plan.parent, out, device, follow, tell_validation, fresh=not resume)
    typer.echo(done.table())
    _say(f"{out}: {done.document['steps']} steps, {done.document['seconds']:.0f} s")


def _trainer() -> tuple[ModuleType, ModuleType, ModuleType]:
    """What trains; serving installs no torch, so it may be missing."""
    try:
        from training import classifier_run, plan, run  # noqa: PLC0415  (doors import the trainer inside the command that needs it)
    except ModuleNotFoundError as error:
        raise InvalidOptions(f"tal train needs {error.name}, which is not installed: pip install '.[train]'") from None
    return plan, run, classifier_run


def tell_validation(epoch: int, figures: Mapping[str, float]) -> None:
    if figures:
        _say(f"epoch {epoch + 1}: " + "  ".join(f"{name} {100 * value:.2f}" for name, value in figures.items()))


@contextmanager
def progress() -> Iterator[Callable[[Step], None]]:
    """A bar on a terminal; in a pipe, a line per epoch."""
    described = TextColumn("{task.description}", markup=False)
    with bars(described, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as shown:
        task = shown.add_task("training", total=None)
        latest = -1

        def follow(step: Step) -> None:
            nonlocal latest
            told = "  ".join(f"{name} {value:.4f}" for name, value in step.losses.items())
            shown.update(task, description=told, completed=step.step + 1, total=step.total)
            if step.epoch != latest:
                latest = step.epoch
                _say(f"epoch {step.epoch + 1}: {told}  learning rate {step.learning_rate:.3g}")

        yield follow


def _say(message: str) -> None:
    typer.echo(message, err=True)
