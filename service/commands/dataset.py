"""`tal dataset`: a public data set's files in; what is in them, what was mended, and all problems out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray

from service.errors import InvalidOptions

if TYPE_CHECKING:
    from training.datasets.dataset import Dataset

PROBLEMS_FOUND = 1
QUANTILES = (0.05, 0.5, 0.95)


def dataset(
    name: Annotated[
        str,
        typer.Argument(
            help="thumos14, activitynet-1.3, activitynet-bmn, multithumos, charades, epic-kitchens-100, ego4d-mq, "
            "or json: one's own, in ActivityNet's form.",
            show_default=False,
        ),
    ],
    path: Annotated[Path, typer.Argument(help="Its file, or the folder of its files.", show_default=False)],
    subset: Annotated[str | None, typer.Option(help="Only this subset; default all.")] = None,
    task: Annotated[Literal["verb", "noun", "action"], typer.Option(help="Of EPIC-Kitchens alone.")] = "verb",
    features: Annotated[
        Path | None, typer.Option(help="A folder of feature files: is there one for every video?")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write it to this file, as JSON in ActivityNet's form.")] = None,
) -> None:
    """What a data set holds, and whether it can be trained on; the exit status is 1 if there are problems."""
    from training.datasets import catalog, validation  # noqa: PLC0415
    from training.datasets.writing import write_activitynet  # noqa: PLC0415

    catalog.find(name)
    found = None if features is None else validation.find_features(features)
    try:
        read = catalog.read(name, path, subset, task=task)
    except InvalidOptions as error:
        _fail([str(error)])
    typer.echo("\n".join(_counts(read)))
    for note in (*read.notes, *(() if found is None else validation.feature_notes(read, found))):
        typer.echo(f"note: {note}")
    problems = validation.check(read, found)
    if problems:
        _fail(problems)
    if to is not None:
        _write(json.dumps(write_activitynet(read), ensure_ascii=False, allow_nan=False), to)


def _fail(problems: Sequence[str]) -> NoReturn:
    for problem in problems:
        typer.echo(f"problem: {problem}", err=True)
    raise typer.Exit(PROBLEMS_FOUND)


def _counts(read: Dataset) -> list[str]:
    truth = read.ground_truth
    per_video = np.bincount(truth.video_indices, minlength=len(truth.videos))
    lengths_s = truth.segments_s[:, 1] - truth.segments_s[:, 0]
    known_s = truth.durations_s[~np.isnan(truth.durations_s)]
    unknown = len(truth.videos) - len(known_s)
    used = len(set(truth.label_indices.tolist()))
    return [
        f"{read.name}, scored as {read.protocol}",
        f"videos      {len(truth.videos)}, {int((per_video == 0).sum())} of them without an instance",
        f"instances   {len(truth.segments_s)} of {used} labels of {len(truth.labels)}",
        f"hours       {known_s.sum() / 3600:.2f}" + (f"; {unknown} videos do not say" if unknown else ""),
        f"per video   {_spread(per_video, 'instances')}",
        f"lengths     {_spread(lengths_s, 's')}",
    ]


def _spread(values: NDArray[Any], unit: str) -> str:
    """The mean, and how the values lie."""
    if not len(values):
        return "none"
    low, middle, high = np.quantile(values, QUANTILES)
    mean = f"{values.mean():.2f} {unit} on average"
    return f"{mean} (5 % below {low:.2f}, half below {middle:.2f}, 95 % below {high:.2f})"


def _write(text: str, path: Path) -> None:
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InvalidOptions(f"{path} cannot be written: {error.strerror or error}") from error
