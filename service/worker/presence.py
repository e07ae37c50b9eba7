"""What a worker serves and does in; beats to the queue out, and whether anybody should count on this worker."""

from __future__ import annotations

import logging
import math
import os
import socket
import time

from service.errors import LeaseLost, QueueUnavailable
from service.jobs.job import Priority
from service.jobs.queue import WorkerRecord
from service.worker.child import Child
from service.worker.guarded_queue import GuardedQueue

# By how much a beat may be late before the queue counts as silent.
LATE_S = 1.0
# Several calls that a queue leaves without an answer fit in; what takes longer hangs.
LONGEST_TURN_S = 60.0

log = logging.getLogger("tal.worker")


class Presence:
    """Beats three times in the silence that the queue allows; `beat_soon` tells a change at the next turn."""

    def __init__(self, queue: GuardedQueue, worker_id: str, priorities: tuple[Priority, ...]) -> None:
        self._queue = queue
        self._id = worker_id
        self._priorities = priorities
        self._every_s = min(queue.policy.lease_s, queue.policy.worker_silence_s) / 3
        self._started_at_s = time.time()
        self._answered_s = -math.inf
        self._turned_s = time.monotonic()
        self.wake_at_s = 0.0

    def turned(self) -> None:
        """The supervisor's loop has come round."""
        self._turned_s = time.monotonic()

    def stuck(self) -> str | None:
        """Why this supervisor should be ended from outside, if so."""
        age_s = time.monotonic() - self._turned_s
        return f"no turn for {age_s:.0f} s" if age_s > LONGEST_TURN_S else None

    def beat_soon(self) -> None:
        self.wake_at_s = 0.0

    def beat_if_due(self, child: Child | None, job_id: str | None, *, draining: bool) -> None:
        if time.monotonic() < self.wake_at_s:
            return
        self.wake_at_s = time.monotonic() + self._every_s
        record = WorkerRecord(
            id=self._id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at_s=self._started_at_s,
            ready=bool(child and child.usable and not draining),
            models=child.models if child else {},
            priorities=self._priorities,
            job_id=job_id,
            beat_at_s=time.time(),
        )
        try:
            self._queue.beat(record)
            self._answered_s = time.monotonic()
        except (QueueUnavailable, LeaseLost) as error:
            log.warning("the queue does not answer: %s", error)

    def unready(self, child: Child | None, *, draining: bool) -> str | None:
        """Why no job would be done now, if so."""
        if draining:
            return "draining"
        if child is None or not child.usable:
            return "the models are not loaded"
        if time.monotonic() - self._answered_s > 3 * self._every_s + LATE_S:
            return "the queue does not answer"
        return None

    def leave(self) -> None:
        try:
            self._queue.leave(self._id)
        except (QueueUnavailable, LeaseLost) as error:
            log.warning("the queue still lists this worker for a while: %s", error)
