"""Items and the URL of a service in; each item's end, in whatever order they come, out."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from service.client import AsyncClient, Job
from service.commands.batch_items import BatchItem
from service.commands.batch_journal import Journal
from service.errors import (
    AccessError,
    JobNotFound,
    ServerError,
    TalError,
    Unavailable,
    VideoNotFound,
)

# Uploads share one line; jobs beyond those are so that no worker waits for the next one.
UPLOADS_AT_ONCE, JOBS_AT_ONCE = 4, 16
RETRIES = 8
PAUSE_S = 5.0
T = TypeVar("T")


@dataclass
class Window:
    """Keeps some items under way; `told` hears of each end, once it is in the journal, whether it failed."""

    client: AsyncClient
    journal: Journal
    told: Callable[[bool], None]

    async def run(self, items: Iterator[BatchItem]) -> None:
        """Ends with the first error that is not an item's own; jobs go on, and the next run finds them by key."""
        uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

        async def lane() -> None:
            for item in items:  # shared: each lane takes the next one
                await self._do(item, uploads)

        lanes = {asyncio.create_task(lane()) for _ in range(JOBS_AT_ONCE)}
        try:
            ended, _ = await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                task.result()
        finally:
            await _cancel(lanes)
            await asyncio.gather(*lanes, return_exceptions=True)  # else what they raised is logged as unheard

    async def _do(self, item: BatchItem, uploads: asyncio.Semaphore) -> None:
        key = await asyncio.to_thread(lambda: item.key)
        job_id, final = None, True
        try:
            job = await self._ended(item, f"{key}-{self.journal.tries(key)}", uploads)
            job_id = job.id
            told = await self._outcome(job)
            final = not (job.failure and job.failure.retryable)
        except (AccessError, ServerError):
            raise
        except TalError as error:
            told = error_of(error)
        line = {"custom_id": item.custom_id, "job_id": job_id, **told}
        await asyncio.to_thread(self.journal.add, key, line, final=final)
        self.told("error" in line)

    async def _ended(self, item: BatchItem, key: str, uploads: asyncio.Semaphore) -> Job:
        source = item.source
        if item.error is not None or source is None:
            raise item.error or VideoNotFound(f"{item.custom_id} names no video")
        ask = replace(item.ask, idempotency_key=key)
        name = source.name if isinstance(source, Path) else None
        while True:
            try:
                async with uploads:
                    job = await patient(partial(self.client.submit, source, ask, name=name))
                return await patient(partial(self.client.wait, job.id))
            except JobNotFound:  # somebody deleted it
                await asyncio.sleep(PAUSE_S)

    async def _outcome(self, job: Job) -> dict[str, Any]:
        try:
            job.require_success()
        except TalError as error:
            return error_of(error)
        return {"result": json.loads(await patient(partial(self.client.result, job.id)))}


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Again and again: a connection that is just being made or ended can swallow a cancellation."""
    while tasks := {task for task in tasks if not task.done()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)


async def patient(call: Callable[[], Awaitable[T]]) -> T:
    """A service that is full, or about to end, is asked again for as long as it says so."""
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(PAUSE_S)


def error_of(error: TalError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}


def run(server: str, items: Iterator[BatchItem], journal: Journal, told: Callable[[bool], None]) -> None:
    async def everything() -> None:
        _heed_interrupts()
        async with AsyncClient(server, retries=RETRIES) as client:
            await Window(client, journal, told).run(items)

    try:
        asyncio.run(everything())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _heed_interrupts() -> None:
    """A signal that comes just before the loop goes to sleep would else be heard when something else wakes it."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
