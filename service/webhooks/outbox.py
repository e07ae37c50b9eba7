"""Jobs that have finished in; for each that has a webhook, one message to send out, whatever ends in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import JobNotFound
from service.jobs.job import Job
from service.jobs.queue import JobQueue
from service.jobs.records import Records
from service.webhooks.message import message_of, write


class Outbox:
    """Any number of processes may collect: the first to make a message makes the only one.

    The queue keeps its notice until the message is stored, so that a crash between the two loses nothing.
    """

    def __init__(
        self,
        queue: JobQueue,
        records: Records,
        describe: Callable[[Job], Mapping[str, Any]],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._queue, self._records, self._describe, self._now_s = queue, records, describe, now_s

    def collect(self) -> None:
        for job_id in self._queue.notices():
            self._store(job_id)
            self._queue.noticed(job_id)

    def _store(self, job_id: str) -> None:
        try:
            job = self._queue.get(job_id)
        except JobNotFound:  # deleted by its owner, who knows of its end then
            return
        if job.request.webhook is not None:
            self._records.create(write(message_of(job, job.request.webhook, self._describe(job), self._now_s())))
