"""What all routes share: settings, queue, store, the watch over jobs, and whether this process is about to end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from service.api.job_watch import JobWatch
from service.api.metrics import ApiMetrics
from service.jobs.artifacts import ArtifactStore
from service.jobs.queue import JobQueue
from service.settings import Settings

THREADS = 64
R = TypeVar("R")


class ApiState:
    def __init__(self, config: Settings, queue: JobQueue, store: ArtifactStore) -> None:
        self.config, self.queue, self.store = config, queue, store
        self.threads = anyio.CapacityLimiter(THREADS)
        self.watch = JobWatch(queue.versions, self.threads)
        self.metrics = ApiMetrics(queue, store)
        self.started = False
        self.durations_s: dict[str, float] = {}  # of videos by key, so that none is looked at twice

    @property
    def draining(self) -> bool:
        return self.watch.draining

    def drain(self) -> None:
        """Readiness and submissions are refused from here on; who waits is answered now."""
        self.watch.drain()

    async def ask(self, function: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """What blocks, in a thread."""
        return await anyio.to_thread.run_sync(partial(function, *arguments, **named), limiter=self.threads)


def state_of(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state
