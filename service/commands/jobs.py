"""`tal jobs`: the jobs of a running service, listed, shown, waited for, canceled, tried again and forgotten."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.client import Client, Job
from service.commands.remote_detect import ServerOption
from service.errors import InvalidOptions, JobError
from service.localization import Progress

SOME_FAILED = 1

app = typer.Typer(no_args_is_help=True, help="Jobs of a running service.")

State = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled", "expired"]
JobArgument = Annotated[str, typer.Argument(help="A job's id.", metavar="JOB", show_default=False)]
JobsArgument = Annotated[list[str], typer.Argument(help="Ids of jobs.", metavar="JOB...", show_default=False)]


@app.command("list")
def list_jobs(
    server: ServerOption,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs for this model.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
) -> None:
    """The newest jobs: id, state, when it was made, model, and video."""
    with Client(server) as client:
        for job in islice(client.jobs(state=state, model=model, tag=tag), limit):
            typer.echo(_line(job))


@app.command()
def show(job_id: JobArgument, server: ServerOption) -> None:
    """A job as JSON."""
    with Client(server) as client:
        typer.echo(_document(client.job(job_id)))


@app.command()
def result(
    job_id: JobArgument,
    server: ServerOption,
    format: Annotated[  # noqa: A002
        Literal["json", "jsonl", "csv", "activitynet", "vtt", "srt"], typer.Option("--format", "-f", help="How.")
    ] = "json",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """What a job found."""
    with Client(server) as client:
        text = client.result(job_id, format)
    if output is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidOptions(f"output {output} cannot be written: {error.strerror}") from None


@app.command()
def cancel(job_ids: JobsArgument, server: ServerOption) -> None:
    """Ends jobs that are not done; prints each as it stands then."""
    with Client(server) as client:
        _each(job_ids, lambda job_id: typer.echo(_line(client.cancel(job_id))))


@app.command()
def retry(job_ids: JobsArgument, server: ServerOption) -> None:
    """Makes a new job of the request of each, and prints that one."""
    with Client(server) as client:
        _each(job_ids, lambda job_id: typer.echo(_line(client.retry(job_id))))


@app.command()
def delete(job_ids: JobsArgument, server: ServerOption) -> None:
    """Forgets finished jobs and their results."""
    with Client(server) as client:
        _each(job_ids, client.delete)


@app.command()
def watch(
    job_id: JobArgument,
    server: ServerOption,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which to stop watching.")] = None,
) -> None:
    """Waits for a job's end and tells how far it is; the exit status is 1 unless the job succeeds."""
    with Client(server) as client:
        job = client.wait(job_id, on_progress=_tell, timeout_s=timeout)
    typer.echo(_line(job))
    if job.state != "succeeded":
        raise typer.Exit(SOME_FAILED)


def _each(job_ids: list[str], do: Callable[[str], None]) -> None:
    """A job that cannot be had does not stop the others; the exit status is then 1."""
    failed = False
    for job_id in job_ids:
        try:
            do(job_id)
        except JobError as error:
            failed = True
            typer.echo(f"{job_id}: {error} [{error.code}]", err=True)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _tell(progress: Progress) -> None:
    typer.echo(f"{progress.stage:<12} {progress.done:g} of {progress.total:g}", err=True)


def _line(job: Job) -> str:
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.created_at_s))
    failure = f"  {job.failure.message} [{job.failure.code}]" if job.failure else ""
    return f"{job.id:<32} {job.state:<10} {made}  {job.model}  {job.video.name}{failure}"


def _document(job: Job) -> str:
    return json.dumps(dataclasses.asdict(job), indent=2, ensure_ascii=False)
