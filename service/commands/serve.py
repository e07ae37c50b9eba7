"""`tal serve`: an address in; the HTTP API, and a worker beside it, until a signal ends both."""

from __future__ import annotations

from typing import Annotated

import typer

from service.runtime.session import Device


def serve(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes a free one.", min=0, max=65535)] = 8000,
    root_path: Annotated[str, typer.Option(help="The path under which a proxy shows the API.")] = "",
    no_worker: Annotated[bool, typer.Option("--no-worker", help="The API alone.")] = False,
    everybody: Annotated[
        bool, typer.Option("--open", help="Ask for no API keys: everybody who can reach it may do everything.")
    ] = False,
    device: Annotated[Device | None, typer.Option(help="Where models run; default TAL_DEVICE.")] = None,
) -> None:
    """Takes videos over HTTP; jobs wait in Redis where TAL_REDIS_URL is set, else in a file."""
    from service.api.server import Address  # noqa: PLC0415
    from service.api.serving import run  # noqa: PLC0415  (loads what no other command needs)

    raise typer.Exit(run(Address(host, port, root_path), worker=not no_worker, device=device, everybody=everybody))
