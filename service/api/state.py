"""What all routes share: settings, queue, store, the watch over jobs, and whether this process is about to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from fastapi import Request
from starlette.routing import Route

from service.api.admission import Admission
from service.api.job_watch import JobWatch
from service.api.metrics import ApiMetrics
from service.configured import Backends
from service.errors import Draining, QueueFull, Unavailable
from service.jobs.job import JobRequest
from service.jobs.keys import KeyRing
from service.jobs.queue import Idempotency, Submission
from service.settings import MIB, Settings

THREADS = 64
# A look at a video is a process: dozens at once starve one another until sound videos are refused for their slowness.
LOOKS = 2 * (os.cpu_count() or 1)
MOST_WAITING_LOOKS = max(16, 4 * LOOKS)
DOWNLOADS = 8
# A key that was revoked is refused after this long at most.
KEYS_FRESH_S = 5.0
R = TypeVar("R")


class ApiState:
    def __init__(self, config: Settings, held: Backends) -> None:
        self.config, self.queue, self.store, self.records = config, held.queue, held.store, held.records
        self.threads = anyio.CapacityLimiter(THREADS)
        self.looks = anyio.Semaphore(LOOKS)
        self.downloads = anyio.Semaphore(DOWNLOADS)
        self.watch = JobWatch(held.queue.versions, self.threads)
        self.metrics = ApiMetrics(held.queue, held.store)
        self.admission = Admission(held.queue, held.store, config.min_free_disk_mib * MIB)
        self.keys, self.buckets = KeyRing(held.records), held.buckets
        self.routes: list[Route] = []
        self.started = False
        self.leaving = False  # and will soon drain
        self.intakes: dict[str, dict[anyio.CancelScope, anyio.Event]] = {}  # bodies of parts that come in, by upload
        self.completing: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()  # uploads, by id
        self.durations_s: dict[str, float] = {}  # of videos by key, so that none is looked at twice

    @property
    def draining(self) -> bool:
        return self.watch.draining

    async def admit(self, key: str | None) -> None:
        """Raises what keeps this process from taking a job, before anything of it is read."""
        if self.draining:
            raise Draining("this server is about to end; ask again")
        await self.ask(self.admission.check, key)

    def check_looks(self) -> None:
        """Raises Unavailable where so many new videos wait for a look that the answer would be long in coming."""
        if (waiting := self.looks.statistics().tasks_waiting) >= MOST_WAITING_LOOKS:
            raise Unavailable(f"{waiting} new videos wait to be looked at already; send it again later")

    async def submit(self, request: JobRequest, idempotency: Idempotency | None) -> Submission:
        owner_video_s = await self._owner_video_s(request.owner)
        self.admission.check_length(request, owner_video_s)
        try:
            submission = await self.ask(self.queue.submit, request, idempotency, owner_video_s)
        except QueueFull:
            await self.ask(self.admission.look)  # for its pause; the look before the upload may be old
            raise
        if not submission.replayed:
            self.metrics.submitted.labels(request.model, request.priority).inc()
        return submission

    async def look_at_keys(self, age_s: float = KEYS_FRESH_S) -> None:
        if self.keys.is_older(age_s):
            await self.ask(self.keys.read)

    async def _owner_video_s(self, owner: str) -> float | None:
        if not owner:
            return None
        await self.look_at_keys()
        key = self.keys.get(owner)
        return key.allowance.max_queued_video_s if key else None

    def drain(self) -> None:
        """Readiness and submissions are refused from here on; who waits is answered now."""
        self.watch.drain()

    async def ask(self, function: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """What blocks, in a thread."""
        return await anyio.to_thread.run_sync(partial(function, *arguments, **named), limiter=self.threads)


def state_of(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state
