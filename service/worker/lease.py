"""The claim on a running job in; its lease kept, its progress told, and whether it is lost, out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

from service.errors import LeaseLost, QueueUnavailable
from service.jobs.job import Job
from service.jobs.queue import Claim
from service.localization import Progress
from service.worker.guarded_queue import GuardedQueue
from service.worker.metrics import WorkerMetrics

# After a queue that did not answer.
QUEUE_PAUSE_S = 1.0
# At least three times in its length, and so often that a cancel, which a renewal tells, is seen soon.
LONGEST_UNSEEN_S = 1.0

T = TypeVar("T")
log = logging.getLogger("tal.worker")


class Lease:
    """Renewed often, also to see a cancel. A queue that does not answer stops no work, a lease that is lost does."""

    def __init__(self, queue: GuardedQueue, claim: Claim, metrics: WorkerMetrics) -> None:
        self._queue = queue
        self._claim = claim
        self._metrics = metrics
        self._every_s = min(queue.policy.lease_s / 3, LONGEST_UNSEEN_S)
        self.wake_at_s = time.monotonic() + self._every_s
        self.is_lost = False
        self._unheard_until_s = 0.0

    def renew_if_due(self) -> Job | None:
        """The job as it stands, where that was asked just now."""
        if self.is_lost or time.monotonic() < self.wake_at_s:
            return None
        self.wake_at_s = time.monotonic() + self._every_s
        job = self._ask(lambda: self._queue.renew(self._claim))
        if job is None and not self.is_lost:
            self.wake_at_s = min(self.wake_at_s, self._unheard_until_s)
        return job

    def report(self, progress: Progress) -> None:
        """Of use only at once: while the queue does not answer, progress is not told."""
        if not self.is_lost and time.monotonic() >= self._unheard_until_s:
            self._ask(lambda: self._queue.report(self._claim, progress))

    def _ask(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except QueueUnavailable as error:
            self._unheard_until_s = time.monotonic() + QUEUE_PAUSE_S
            log.warning("the queue does not answer, the job goes on: %s", error)
        except LeaseLost:
            self.is_lost, self.wake_at_s = True, math.inf
            self._metrics.lease_lost.inc()
            log.warning("job %s was given to another worker", self._claim.job.id)
        return None
