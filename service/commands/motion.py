"""`tal motion`: videos in, a folder with the amount of motion in every frame of each out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from service import configured, settings
from service.commands.bars import bars

SOME_FAILED = 1


def motion(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Folders of videos, searched to the bottom, or videos.", metavar="FOLDER|FILE..."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the files; made if it is not there.")],
    fps: Annotated[float | None, typer.Option(help="Frames per second to look at; default all of them.")] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Videos side by side.")] = 1,
) -> None:
    """How much moves in each frame, by optical flow: where nothing does, `tal train` finds hard negatives.

    Files that are there and can be read are kept, so the same command continues a run that was stopped. A video that
    cannot be read does not stop the others; the exit status is then 1.
    """
    from training import extract  # noqa: PLC0415  (doors import training inside the command that needs it)
    from training import motion as moving  # noqa: PLC0415

    decoding = configured.decoding(settings.read())
    columns = (TextColumn("motion"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    videos = extract.find_videos(sources)
    with bars(*columns) as progress:
        bar = progress.add_task("videos", total=len(videos))
        written = moving.write(
            videos,
            out,
            fps=fps,
            workers=workers,
            decoding=decoding,
            on_video=lambda done, total: progress.update(bar, completed=done, total=total),
            on_failure=lambda failure: typer.echo(f"{failure.video}: {failure.error} [{failure.code}]", err=True),
        )
    failed = len(written.failed)
    typer.echo(f"{out}: {written.made} made, {written.kept} kept, {failed} failed", err=True)
    if failed:
        raise typer.Exit(SOME_FAILED)
