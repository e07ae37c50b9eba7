"""How a delivery ended in; offered to the queue until it takes it, or another worker has the job, or time is up."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from service.errors import LeaseLost, QueueUnavailable
from service.jobs.queue import Claim, Outcome
from service.worker.guarded_queue import GuardedQueue
from service.worker.metrics import WorkerMetrics

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
# An outcome that the queue does not take is offered for so long, or for a lease where that is longer.
LEAST_PATIENCE_S = 60.0

log = logging.getLogger("tal.worker")


@dataclass
class Unsettled:
    claim: Claim
    outcome: Outcome
    give_up_at_s: float
    next_at_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S


class Settling:
    """One outcome at a time; while it is there, no other job is taken."""

    def __init__(self, queue: GuardedQueue, metrics: WorkerMetrics) -> None:
        self._queue = queue
        self._metrics = metrics
        self._waiting: Unsettled | None = None
        self._longest_pause_s = min(LONGEST_PAUSE_S, queue.policy.lease_s / 3)

    @property
    def busy(self) -> bool:
        return self._waiting is not None

    @property
    def wake_at_s(self) -> float:
        return self._waiting.next_at_s if self._waiting else math.inf

    def offer(self, claim: Claim, outcome: Outcome) -> None:
        patience_s = max(self._queue.policy.lease_s, LEAST_PATIENCE_S)
        self._waiting = Unsettled(claim, outcome, time.monotonic() + patience_s)
        self.try_if_due()

    def try_if_due(self) -> None:
        waiting = self._waiting
        if waiting is None or time.monotonic() < waiting.next_at_s:
            return
        try:
            if self._try(waiting) or self._is_given_up(waiting):
                self._waiting = None
        except LeaseLost:
            self._metrics.lease_lost.inc()
            log.warning("job %s was given to another worker; this outcome is dropped", waiting.claim.job.id)
            self._waiting = None

    def _try(self, waiting: Unsettled) -> bool:
        try:
            self._queue.settle(waiting.claim, waiting.outcome)
        except QueueUnavailable as error:
            log.warning("job %s: its outcome is not taken yet: %s", waiting.claim.job.id, error)
            self._put_off(waiting)
            return False
        return True

    def _put_off(self, waiting: Unsettled) -> None:
        """What the queue does not take may be just this outcome; the job stays ours while it says so."""
        waiting.next_at_s = time.monotonic() + waiting.pause_s
        waiting.pause_s = min(2 * waiting.pause_s, self._longest_pause_s)
        try:
            self._queue.renew(waiting.claim)
        except QueueUnavailable:
            return

    def _is_given_up(self, waiting: Unsettled) -> bool:
        given_up = time.monotonic() >= waiting.give_up_at_s
        if given_up:
            log.error("job %s: its outcome is given up; another worker will do it again", waiting.claim.job.id)
        return given_up
