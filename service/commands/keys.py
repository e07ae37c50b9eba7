"""`tal keys`: API keys of the service whose queue the settings name, made, listed, shown and revoked."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from service import configured, settings
from service.errors import InvalidOptions
from service.jobs.keys import SCOPES, Allowance, ApiKey, KeyShelf, Scope

app = typer.Typer(no_args_is_help=True, help="API keys of the service whose queue is here, or in TAL_REDIS_URL.")
KeyArgument = Annotated[str, typer.Argument(help="A key's id.", metavar="KEY", show_default=False)]
DAY_S, HOUR_S = 86400.0, 3600.0


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, for those who read the list.", show_default=False)],
    scopes: Annotated[str, typer.Option(help="submit, read, admin; several by commas.")] = "submit,read",
    rate: Annotated[float | None, typer.Option(help="Requests per second; default any number.")] = None,
    burst: Annotated[int | None, typer.Option(help="So many requests at once; default as many as in 2 s.")] = None,
    max_queued_hours: Annotated[float | None, typer.Option(help="Hours of video that may wait at a time.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="Days until it is refused; default never.")] = None,
) -> None:
    """Makes a key and prints it, this once: the service keeps a digest of it alone."""
    for option, value in (("--rate", rate), ("--max-queued-hours", max_queued_hours), ("--expires-days", expires_days)):
        if value is not None and not 0 < value <= 1e6:
            raise InvalidOptions(f"{option} {value:g}: more than 0 and at most 1000000 are needed")
    if burst is not None and (rate is None or not 0 < burst <= 1e6):
        raise InvalidOptions(f"--burst {burst}: 1 to 1000000 are needed, and a --rate")
    usual = max(1, round(2 * (rate or 0)))
    allowance = Allowance(
        rate, usual if burst is None else burst, None if max_queued_hours is None else max_queued_hours * HOUR_S
    )
    expires_at_s = None if expires_days is None else time.time() + expires_days * DAY_S
    with _shelf() as shelf:
        key, text = shelf.create(name, _scopes(scopes), allowance, expires_at_s)
    typer.echo(f"key {key.id}, for {', '.join(key.scopes)}; it is shown this once:", err=True)
    typer.echo(text)


@app.command("list")
def list_keys() -> None:
    """Every key: id, state, scopes and name."""
    with _shelf() as shelf:
        for key in sorted(shelf.all(), key=lambda key: key.created_at_s):
            typer.echo(f"{key.id:<12} {key.state(time.time()):<9} {','.join(key.scopes):<18} {key.name}")


@app.command()
def show(key_id: KeyArgument) -> None:
    """A key as JSON, without its digest."""
    with _shelf() as shelf:
        typer.echo(_document(shelf.find(key_id)))


@app.command()
def revoke(key_id: KeyArgument) -> None:
    """Refuses a key for good, within 5 s; what was accepted under it goes on. Twice is no error."""
    with _shelf() as shelf:
        key = shelf.revoke(key_id)
    typer.echo(f"key {key.id} ({key.name}) is revoked", err=True)


@contextmanager
def _shelf() -> Iterator[KeyShelf]:
    records = configured.open_records(settings.read())
    try:
        yield KeyShelf(records)
    finally:
        records.close()


def _scopes(text: str) -> tuple[Scope, ...]:
    wanted = {part.strip() for part in text.split(",")}
    if not wanted <= set(SCOPES):
        raise InvalidOptions(f"scopes {text[:100]!r}; there are: {', '.join(SCOPES)}, commas between several")
    return tuple(scope for scope in SCOPES if scope in wanted)


def _document(key: ApiKey) -> str:
    told = {name: value for name, value in dataclasses.asdict(key).items() if name != "hash"}
    return json.dumps({**told, "state": key.state(time.time())}, indent=2, ensure_ascii=False)
