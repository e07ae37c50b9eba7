"""`tal batch`: a folder of videos, or a list of them, in; a line of JSON for each, found here or by a service, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from service.client import Ask
from service.commands import batch_run
from service.commands.bars import bars
from service.commands.batch_items import BatchItem, read_items
from service.commands.batch_journal import Journal, Places
from service.commands.local_service import local_service
from service.commands.remote_detect import known_labels
from service.errors import InvalidOptions
from service.localization import DetectOptions
from service.pipeline.segments import check_options
from service.runtime.session import Device

SOME_FAILED, INTERRUPTED = 1, 130
# Here nobody asks for a video a second time.
KEEP_UPLOADS_S = 60


def batch(
    source: Annotated[
        Path,
        typer.Argument(help="A folder of videos; or a file with a path, a URL or a JSON object in each line."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a file that ends in .jsonl.")],
    server: Annotated[
        str | None, typer.Option(envvar="TAL_SERVER", help="The service at this URL, instead of one that starts here.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-b", help="The model, by its name.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Drop segments that score less (0 to 1).")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep at most so many segments per video.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Only these labels; several by commas or by repeating.")
    ] = None,
    glob: Annotated[str | None, typer.Option(help="Which files of the folder; default: all videos below it.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where the model runs here; default TAL_DEVICE.")] = None,
) -> None:
    """What happens in each of many videos; the same command again goes on where it was stopped.

    Videos are sent a few at a time. What fails stands in the file of errors, and the exit status is then 1.
    """
    if server and device is not None:
        raise InvalidOptions("--device is for a model that runs here; the service has its own")
    ask = Ask(model if server or model is None else Path(model).name, DetectOptions(min_score, top_k))
    read_items(source, ask, glob)  # told before a service starts
    settings = {"TAL_KEEP_UPLOADS_S": str(KEEP_UPLOADS_S), **({"TAL_DEFAULT_MODEL": model} if model else {})}
    with Journal(Places.of(out)) as journal:
        with nullcontext(server) if server else local_service(settings, device) as url:
            items = read_items(source, checked(url, ask, labels), glob)
            work_off(url, items, journal)
        journal.write(item.custom_id for item in items)
        failed = sum(journal.failed(item.custom_id) for item in items)
    typer.echo(f"{len(items) - failed} of {len(items)} videos done, {failed} failed", err=True)
    if failed:
        raise typer.Exit(SOME_FAILED)


def checked(url: str, ask: Ask, labels: list[str] | None) -> Ask:
    """What no video could be answered is refused; a text that is a label stays whole, any other is a list of them."""
    known = known_labels(url, ask.model)
    options = ask.options
    if labels is not None:
        parts = (part for text in labels for part in ([text] if text in known else text.split(",")))
        options = replace(options, labels=tuple(part.strip() for part in parts if part.strip()))
    check_options(options, known)
    return replace(ask, options=options)


def work_off(url: str, items: list[BatchItem], journal: Journal) -> None:
    done = sum(journal.done(item.custom_id, item.key) for item in items)
    left = (item for item in items if not journal.done(item.custom_id, item.key))
    with bar(len(items), done) as step:
        try:
            batch_run.run(url, left, journal, step)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from here", err=True)
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def bar(total: int, done: int) -> Iterator[Callable[[bool], None]]:
    """How many are done and how many failed, on a terminal; in a pipe, silence."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeRemainingColumn())
    with bars(*columns) as progress:
        task = progress.add_task("", total=total, completed=done, failed=0)
        count = 0

        def step(failed: bool) -> None:
            nonlocal count
            count += failed
            progress.update(task, advance=1, failed=count)

        yield step
