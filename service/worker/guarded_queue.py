"""A queue in; the same for a worker out, of which only two failures are left: no answer, and a lease that is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TypeVar

from service.errors import JobNotFound, LeaseLost, QueueUnavailable, TalError, first_line
from service.jobs.job import Job, Priority
from service.jobs.queue import Claim, JobQueue, Outcome, WorkerRecord
from service.localization import Progress

T = TypeVar("T")
log = logging.getLogger("tal.worker")


class GuardedQueue:
    """What nobody foresaw is logged with its trace, and ends no supervisor that has a job in hand."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.policy = queue.policy

    def take(self, worker: str, models: Collection[str], priorities: Collection[Priority]) -> Claim | None:
        return _ask(lambda: self._queue.take(worker, models, priorities))

    def renew(self, claim: Claim) -> Job:
        return _ask(lambda: self._queue.renew(claim))

    def report(self, claim: Claim, progress: Progress) -> None:
        _ask(lambda: self._queue.report(claim, progress))

    def settle(self, claim: Claim, outcome: Outcome) -> Job:
        return _ask(lambda: self._queue.settle(claim, outcome))

    def beat(self, worker: WorkerRecord) -> None:
        _ask(lambda: self._queue.beat(worker))

    def leave(self, worker_id: str) -> None:
        _ask(lambda: self._queue.leave(worker_id))


def _ask(call: Callable[[], T]) -> T:
    try:
        return call()
    except (QueueUnavailable, LeaseLost):
        raise
    except JobNotFound as error:
        raise LeaseLost(str(error)) from error
    except TalError as error:
        raise QueueUnavailable(f"{error} [{error.code}]") from error
    except Exception as error:
        log.exception("the queue failed in a way that nobody foresaw")
        raise QueueUnavailable(f"{type(error).__name__}: {first_line(error)}") from error
