"""Files of ground truth and predictions in, figures out as a table or JSON, with a diagnosis and plots on demand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.errors import InvalidOptions

if TYPE_CHECKING:
    from training.evaluation.diagnosis import Borders, Diagnosis
    from training.evaluation.protocols import Protocol, Result

DEFAULT_TIOUS = "0.1:0.9:0.1"


def evaluate(
    ground_truth: Annotated[
        Path, typer.Option("--ground-truth", "-g", help="Instances, as JSON in ActivityNet's form.", show_default=False)
    ],
    predictions: Annotated[
        Path,
        typer.Option("--predictions", "-p", help="What `tal detect --format activitynet` prints.", show_default=False),
    ],
    subset: Annotated[str | None, typer.Option(help="Only the videos of this subset; default all.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="A data set's rules: thumos14, activitynet, epic, ego4d, multithumos, charades; "
            "default ActivityNet's matching and the mAP alone."
        ),
    ] = None,
    tiou: Annotated[
        str | None,
        typer.Option(help=f"FIRST:LAST:STEP or a list by commas; default the protocol's, or {DEFAULT_TIOUS}."),
    ] = None,
    format: Annotated[Literal["table", "json"], typer.Option("--format", "-f", help="How to print.")] = "table",  # noqa: A002
    classes: Annotated[bool, typer.Option("--classes", help="The average precision of every class, too.")] = False,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Kinds of errors, and which instances are hard, too.")
    ] = False,
    buckets: Annotated[
        str | None,
        typer.Option(help="Sizes that the diagnosis calls small or large: activitynet, thumos14; default by protocol."),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw the diagnosis as PNG files into this folder.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    overrun: Annotated[float, typer.Option(help="Seconds that a segment may end after its video.")] = 0.01,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Keep segments without length; none of them is ever found.")
    ] = False,
    allow_unknown_videos: Annotated[
        bool,
        typer.Option("--allow-unknown-videos", help="Predictions for videos without ground truth count as wrong."),
    ] = False,
) -> None:
    """How good predictions are: mAP and what the protocol asks for, with a diagnosis on demand."""
    from training.evaluation.annotations import Allowance, read_ground_truth, read_predictions  # noqa: PLC0415
    from training.evaluation.protocols import evaluate as score  # noqa: PLC0415

    rules = _rules(protocol, tiou, buckets, overrun)
    allowance = Allowance(overrun, allow_empty, allow_unknown_videos)
    truth = read_ground_truth(ground_truth, subset, allowance)
    found = read_predictions(predictions, truth, allowance)
    result = score(truth, found, rules.protocol)
    diagnosis = None
    if diagnose or plots is not None:
        from training.evaluation.diagnosis import diagnose as examine  # noqa: PLC0415

        diagnosis = examine(truth, found, rules.protocol, rules.borders)
    if plots is not None and diagnosis is not None:
        from training.evaluation.plots import write_plots  # noqa: PLC0415

        for path in write_plots(diagnosis, plots):
            typer.echo(f"{path}: drawn", err=True)
    shown = diagnosis if diagnose else None
    _print(_json(result, shown, classes) if format == "json" else _table(result, shown, classes), output)


@dataclass(frozen=True)
class _Rules:
    """How to score, and where the diagnosis draws its borders; None leaves them to the protocol."""

    protocol: Protocol
    borders: Borders | None


def _rules(protocol: str | None, tiou: str | None, buckets: str | None, overrun_s: float) -> _Rules:
    """The rules that the options name, or all that is wrong with those."""
    from training.evaluation.diagnosis import BORDERS  # noqa: PLC0415
    from training.evaluation.protocols import PROTOCOLS, Protocol  # noqa: PLC0415
    from training.evaluation.thresholds import parse_tious  # noqa: PLC0415

    problems = []
    if protocol is not None and protocol not in PROTOCOLS:
        problems.append(f"protocol {protocol!r} is not known; accepted are {', '.join(PROTOCOLS)}")
    if buckets is not None and buckets not in BORDERS:
        problems.append(f"buckets {buckets!r} are not known; accepted are {', '.join(BORDERS)}")
    if not 0 <= overrun_s < float("inf"):
        problems.append(f"overrun is {overrun_s}; a number of seconds from 0 on is needed")
    tious = None
    try:
        tious = parse_tious(tiou or DEFAULT_TIOUS) if tiou is not None or protocol is None else None
    except InvalidOptions as error:
        problems.append(str(error))
    if problems:
        raise InvalidOptions("\n".join(problems))
    chosen = PROTOCOLS[protocol] if protocol is not None else Protocol("plain", ())
    return _Rules(replace(chosen, tious=tious) if tious else chosen, BORDERS[buckets] if buckets else None)


def _json(result: Result, diagnosis: Diagnosis | None, classes: bool) -> str:
    document: dict[str, Any] = result.summary()
    if classes:
        document["classes"] = result.by_class()
    if diagnosis is not None:
        document["diagnosis"] = diagnosis.as_dict()
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _table(result: Result, diagnosis: Diagnosis | None, classes: bool) -> str:
    figures = result.table(classes=classes)
    return figures if diagnosis is None else f"{figures}\n\n{diagnosis.table()}"


def _print(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InvalidOptions(f"{output} cannot be written: {error.strerror or error}") from error
