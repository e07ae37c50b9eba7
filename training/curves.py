"""Steps and validations in; curve.csv, validation.csv and TensorBoard logs in a run's folder out."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from training.loop import Step

LEADING = ("step", "epoch", "learning_rate")


class Curves:
    """What an interrupted run wrote beyond its last checkpoint is cut off: those steps are taken again."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        # A row of curve.csv names the step that was taken, one of validation.csv the number of steps taken by then.
        self._steps = _Table(folder / "curve.csv", first_step)
        self._validations = _Table(folder / "validation.csv", first_step + 1)
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def add_step(self, step: Step) -> None:
        row = {"step": step.step, "epoch": step.epoch, "learning_rate": step.learning_rate, **step.losses}
        self._steps.add({**row, "grad_norm": step.grad_norm, "seconds": round(step.seconds, 4)})
        for name, value in step.losses.items():
            self._board.add_scalar(f"loss/{name}", value, step.step)
        self._board.add_scalar("learning_rate", step.learning_rate, step.step)

    def add_validation(self, steps_done: int, epoch: int, figures: Mapping[str, float]) -> None:
        self._validations.add({"step": steps_done, "epoch": epoch, **figures})
        for name, value in figures.items():
            self._board.add_scalar(f"validation/{name}", value, steps_done)

    def to_disk(self) -> None:
        """Before a checkpoint is written: what lies before it is never written again."""
        self._steps.to_disk()
        self._validations.to_disk()
        self._board.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.close()
        self._validations.close()
        self._board.close()


class _Table:
    """A CSV file whose rows stand in rising order of their first column, `step`; the first row names its columns."""

    def __init__(self, path: Path, first_step: int) -> None:
        kept = _rows_before(path, first_step)
        self._has_head = bool(kept)
        shortened = path.with_name(f".{path.name}.partial")
        shortened.write_text("".join(kept), encoding="utf-8")
        shortened.replace(path)
        self._file = path.open("a", newline="", encoding="utf-8")

    def add(self, row: Mapping[str, float]) -> None:
        writer = csv.writer(self._file, lineterminator="\n")
        if not self._has_head:
            writer.writerow(row)
            self._has_head = True
        writer.writerow(row.values())
        self._file.flush()

    def to_disk(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _rows_before(path: Path, first_step: int) -> list[str]:
    """The head and the rows of earlier steps; a last row that was cut short is no row."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) < first_step]
