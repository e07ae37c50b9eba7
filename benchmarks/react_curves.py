"""Two runs of ReAct in, with ACE-dec and with plain focal loss; their loss and mAP by epoch, as a picture, out.

    python -m benchmarks.react_curves --folder build/marionette

After Fig. 4 of the paper (Shi et al., ECCV 2022). Drawn is the classification loss that both runs have, summed over
decoder layers; what ACE-dec adds is a term of its own and is not.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.detectors import RESULTS

RUNS = {"with ACE-dec": "react-seed0", "focal loss": "react-focal-seed0"}
TARGET = RESULTS / "react_curves.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    folder: Path = parser.parse_args().folder / "runs"
    draw({name: folder / run for name, run in RUNS.items()}, TARGET)


def draw(runs: dict[str, Path], target: Path) -> None:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for name, folder in runs.items():
        losses.plot(*by_epoch(folder / "curve.csv", "classification"), label=name)
        epochs, averages = by_epoch(folder / "validation.csv", "average")
        scores.plot(epochs, 100 * averages, marker=".", label=name)
    losses.set(xlabel="epoch", ylabel="classification loss", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="mAP on validation, average (%)")
    losses.legend()
    with rc_context({"svg.hashsalt": "react"}):
        figure.savefig(target, metadata={"Date": None})


def by_epoch(path: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs of a run's table, counted from 1, and the mean of a column in each."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(int(row["epoch"]) + 1, float(row[column])) for row in csv.DictReader(file)]
    epochs, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    known = np.unique(epochs)
    return known, np.array([values[epochs == epoch].mean() for epoch in known])


if __name__ == "__main__":
    main()
