"""A folder in; finished jobs, real records, a clock that tests move, and a receiver of the test's making out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.egress.requests import Answer
from service.errors import JobNotFound
from service.jobs.job import Job, new_id
from service.jobs.sqlite_records import SqliteRecords
from service.webhooks.courier import Courier
from service.webhooks.deliverer import Deliverer, Terms
from service.webhooks.message import KIND, Message, message_id, prefix_of, read
from service.webhooks.outbox import Outbox
from service.webhooks.schedule import Schedule
from service.webhooks.signing import Signer
from tests.service.jobs.harness import MovableClock, request

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://receiver.example/hook"
Reply = Callable[["Posted"], Answer]


def ok(_: Posted) -> Answer:
    return Answer(204)


class FinishedJobs:
    """As much of a queue as an outbox asks: jobs that have ended, and the notices of them."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.waiting: list[str] = []

    def finish(self, url: str | None = URL, *, owner: str = "", job_id: str | None = None) -> Job:
        asked = replace(request(), owner=owner, webhook=url)
        job = Job(job_id or new_id(), asked, "succeeded", 1_800_000_000.0, 1_800_000_001.0, finished_at_s=1.8e9 + 1)
        self.jobs[job.id] = job
        self.waiting.append(job.id)
        return job

    def get(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise JobNotFound(job_id)
        return self.jobs[job_id]

    def notices(self, limit: int = 100) -> list[str]:
        return self.waiting[:limit]

    def noticed(self, job_id: str) -> None:
        if job_id in self.waiting:
            self.waiting.remove(job_id)


@dataclass(frozen=True)
class Posted:
    url: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float


@dataclass
class Receivers:
    """Whoever is posted to; `reply` answers for all of them."""

    clock: MovableClock
    reply: Reply = ok
    posted: list[Posted] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        posted = Posted(url, headers, body, self.clock.wall_s())
        with self.lock:
            self.posted.append(posted)
        return self.reply(posted)


class Desk:
    """Deliverers of one deployment; every pause is the longest that it may be."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.queue = folder, MovableClock(), FinishedJobs()
        self.records = SqliteRecords(folder / "jobs.sqlite", self.clock)
        self.receivers = Receivers(self.clock)
        self.outcomes: list[str] = []

    def outbox(self, records: Any = None) -> Outbox:
        queue: Any = self.queue
        return Outbox(queue, records or self.records, lambda job: {"id": job.id, "state": job.state}, self.clock.wall_s)

    def deliverer(
        self, *, records: Any = None, terms: Terms | None = None, secrets: tuple[str, ...] = (SECRET,)
    ) -> Any:
        records = records or self.records
        return Deliverer(
            self.outbox(records),
            records,
            Courier(Signer(secrets), self.receivers.post),
            count=self.outcomes.append,
            schedule=Schedule(chance=lambda: 1.0),
            terms=terms,
            now_s=self.clock.wall_s,
        )

    def message(self, job: Job) -> Message:
        owner = job.request.owner
        record = self.records.get(KIND, prefix_of(owner) + message_id(job.id, owner))
        assert record is not None
        return read(record)

    def seen(self, job: Job) -> list[int | str | None]:
        """The status, or what is said instead, of each attempt."""
        return [attempt.status or attempt.error for attempt in self.message(job).attempts]
