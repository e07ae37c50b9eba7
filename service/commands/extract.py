"""Videos and a bundle on the command line in, a folder of feature files out: `tal extract`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service import configured, settings
from service.commands.bars import bars
from service.runtime.session import Device

if TYPE_CHECKING:
    from training.extract import Failure, Progress

SOME_FAILED = 1


def extract(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Folders of videos, searched to the bottom, or videos.", metavar="FOLDER|FILE..."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the feature files; made if it is not there.")],
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Model: a bundle's folder, or a name under TAL_HOME/models.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Processes side by side; they share the cores.")] = 1,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="How features are stored.")] = "float32",
    scores: Annotated[bool, typer.Option("--scores", help="Store the streams' class scores, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make every file anew, whatever OUT holds.")] = False,
    device: Annotated[Device | None, typer.Option(help="Where the model runs; default TAL_DEVICE.")] = None,
) -> None:
    """Features of every video, for training and for detection without the video.

    Files that are there and fit are kept, so the same command continues a run that was stopped. A video that cannot be
    read does not stop the others; the exit status is then 1 and failed.json says why.
    """
    from training import extract as extracting  # noqa: PLC0415

    config = settings.read()
    plan = extracting.ExtractionPlan(
        bundle=configured.find_model(bundle, config),
        out=out,
        onnx=configured.onnx_options(config, device),
        decoding=configured.decoding(config),
        trusted_torch=tuple(config.trusted_torch),
        workers=workers,
        dtype=dtype,
        with_scores=scores,
        force=force,
    )
    videos = extracting.find_videos(sources)
    with _progress() as on_progress:
        result = extracting.extract(videos, plan, on_progress=on_progress, on_failure=_complain)
    typer.echo(f"{out}: {len(result.made)} made, {len(result.skipped)} kept, {len(result.failed)} failed", err=True)
    if result.failed:
        raise typer.Exit(SOME_FAILED)


def _complain(failure: Failure) -> None:
    typer.echo(f"{failure.video}: {failure.error} [{failure.code}]", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with the time that remains on a terminal; in a pipe, silence."""
    with bars() as progress:
        bar = progress.add_task("features", total=None)

        def show(now: Progress) -> None:
            told = f"features {now.videos_done}/{now.videos_total}"
            progress.update(bar, description=told, completed=now.done_bytes, total=now.total_bytes)

        yield show
