"""What all routes share: settings, queue, store, the watch over jobs, and whether this process is about to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from service.api.admission import Admission
from service.api.job_watch import JobWatch
from service.api.metrics import ApiMetrics
from service.errors import Draining, QueueFull, Unavailable
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import JobRequest
from service.jobs.queue import Idempotency, JobQueue, Submission
from service.settings import MIB, Settings

THREADS = 64
# A look at a video is a process: dozens at once starve one another until sound videos are refused for their slowness.
LOOKS = 2 * (os.cpu_count() or 1)
MOST_WAITING_LOOKS = max(16, 4 * LOOKS)
R = TypeVar("R")


class ApiState:
    def __init__(self, config: Settings, queue: JobQueue, store: ArtifactStore) -> None:
        self.config, self.queue, self.store = config, queue, store
        self.threads = anyio.CapacityLimiter(THREADS)
        self.looks = anyio.Semaphore(LOOKS)
        self.watch = JobWatch(queue.versions, self.threads)
        self.metrics = ApiMetrics(queue, store)
        self.admission = Admission(queue, store, config.min_free_disk_mib * MIB)
        self.started = False
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
        self.admission.check_length(request)
        try:
            submission = await self.ask(self.queue.submit, request, idempotency)
        except QueueFull:
            await self.ask(self.admission.look)  # for its pause; the look before the upload may be old
            raise
        if not submission.replayed:
            self.metrics.submitted.labels(request.model, request.priority).inc()
        return submission

    def drain(self) -> None:
        """Readiness and submissions are refused from here on; who waits is answered now."""
        self.watch.drain()

    async def ask(self, function: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """What blocks, in a thread."""
        return await anyio.to_thread.run_sync(partial(function, *arguments, **named), limiter=self.threads)


def state_of(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state
