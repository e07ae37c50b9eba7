"""`tal worker`: a queue of jobs in, their results out, until a signal ends it."""

from __future__ import annotations

from typing import Annotated

import typer

from service.runtime.session import Device


def worker(
    queues: Annotated[str, typer.Option(help="Priorities to take jobs of, separated by commas.")] = "high,normal,low",
    models: Annotated[
        str | None, typer.Option(help="Models to serve, separated by commas; default all that are installed.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", help="Name of this worker; default one by chance.")] = None,  # noqa: A002
    device: Annotated[Device | None, typer.Option(help="Where models run; default TAL_DEVICE.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Port of /metrics, /livez and /readyz; default TAL_METRICS_PORT.", min=0, max=65535),
    ] = None,
) -> None:
    """Takes jobs from the queue and runs models on their videos; start as many as you like, on any machine."""
    from service.worker.start import WorkerCall, run  # noqa: PLC0415  (loads what no other command needs)

    raise typer.Exit(run(WorkerCall(queues, models, id, device, metrics_port)))
