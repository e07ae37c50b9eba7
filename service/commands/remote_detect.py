"""Videos and the URL of a service in; the service's localizations out, in the order of the videos."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from service.client import Ask, AsyncClient, Client
from service.client.watching import OnProgress
from service.errors import ModelNotFound
from service.localization import Localization

# Uploads share one line, and a service works through few videos at a time.
AT_ONCE = 4

ServerOption = Annotated[
    str, typer.Option("--server", envvar="TAL_SERVER", help="URL of the service, such as http://localhost:8000.")
]


def known_labels(server: str, model: str | None) -> tuple[str, ...]:
    """The labels of a model of the service, or of its default."""
    with Client(server) as client:
        served = client.models()
    for one in served:
        if one.get("default") if model is None else one.get("name") == model:
            return tuple(one.get("labels", ()))
    there = ", ".join(str(one.get("name")) for one in served) or "none"
    raise ModelNotFound(f"{server} has no model {model or 'by default'!r}; there are: {there}")


def detect_all(
    server: str,
    files: Sequence[tuple[Path, str]],
    ask: Ask,
    track: Callable[[str], OnProgress],
    take: Callable[[Path, Localization | Exception], None],
) -> None:
    """Hands each answer, or what kept it from coming, to `take`; if that raises, and on an interrupt, cancels jobs."""
    with Client(server) as client:
        client.ready()  # an address where nobody listens is told once, not for each video

    async def each() -> None:
        async with aclosing(_answers(server, files, ask, track)) as answers:
            async for path, answer in answers:
                take(path, answer)

    asyncio.run(each())


async def _answers(
    server: str, files: Sequence[tuple[Path, str]], ask: Ask, track: Callable[[str], OnProgress]
) -> AsyncGenerator[tuple[Path, Localization | Exception], None]:
    turns = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(server) as client:

        async def one(path: Path, name: str) -> Localization | Exception:
            async with turns:
                try:
                    wanted = replace(ask, idempotency_key=Ask().idempotency_key)
                    found = await client.detect(path, wanted, name=path.name, on_progress=track(name))
                    return replace(found, video_name=name)
                except Exception as error:  # noqa: BLE001  (told by whoever takes the answer; the other videos go on)
                    return error

        tasks = [asyncio.create_task(one(path, name)) for path, name in files]
        try:
            for (path, _), task in zip(files, tasks, strict=True):
                yield path, await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
