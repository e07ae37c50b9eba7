"""Jobs to wait for in, wake-ups out: one poller per process, however many requests wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread

from service.errors import QueueUnavailable

POLL_S = 0.1


class JobWatch:
    """`drain` wakes everybody and keeps anybody from waiting again."""

    def __init__(self, versions: Callable[[Sequence[str]], dict[str, int]], threads: anyio.CapacityLimiter) -> None:
        self._versions, self._threads = versions, threads
        self._waiters: dict[asyncio.Event, tuple[str, int]] = {}
        self._poller: asyncio.Task[None] | None = None
        self.draining = False

    async def changed(self, job_id: str, version: int, timeout_s: float) -> bool:
        """Whether the job went beyond `version`, or is gone, before the time was up."""
        if self.draining or timeout_s <= 0:
            return False
        woken = asyncio.Event()
        self._waiters[woken] = (job_id, version)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            await asyncio.wait_for(woken.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            del self._waiters[woken]
        return not self.draining

    def drain(self) -> None:
        self.draining = True
        for woken in self._waiters:
            woken.set()

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(POLL_S)
            ids = sorted({job_id for job_id, _ in self._waiters.values()})
            try:
                versions = await anyio.to_thread.run_sync(self._versions, ids, limiter=self._threads)
            except QueueUnavailable:
                continue
            for woken, (job_id, known) in self._waiters.items():
                if job_id in ids and versions.get(job_id) != known:
                    woken.set()
