"""The promise that every job queue keeps: what callers, workers and the janitor may ask of it.

A job is accepted once `submit` returns, and from then on survives the death of any process. It is handed out under a
lease; whoever stops renewing it loses the job to another worker, and can then change nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from service.jobs.job import Event, Failure, Job, JobRequest, Priority, State
from service.localization import Progress

# A result of more bytes goes to the artifact store, and the queue holds its key.
INLINE_RESULT_BYTES = 64 * 1024


@dataclass(frozen=True)
class QueuePolicy:
    """How a queue behaves; the same for every process that opens it.

    `ageing_s` says how much later a job may have come and still be taken before one of a higher priority.
    """

    lease_s: float = 15.0
    max_attempts: int = 3
    retry_delay_s: float = 2.0
    ageing_s: Mapping[Priority, float] = field(default_factory=lambda: {"high": 0.0, "normal": 60.0, "low": 300.0})
    max_queued_jobs: int = 10_000
    max_queued_video_s: float = 200 * 3600.0
    max_events: int = 1000
    keep_jobs_s: float = 7 * 86400.0
    keep_idempotency_s: float = 86400.0
    worker_silence_s: float = 15.0


@dataclass(frozen=True)
class Idempotency:
    """A caller's key, and a digest of what was asked under it."""

    key: str
    fingerprint: str


@dataclass(frozen=True)
class Submission:
    """`replayed` says that an earlier request of the same key had made the job."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, as long as its lease is renewed and nobody else was handed it."""

    job: Job
    worker: str

    @property
    def delivery(self) -> int:
        return self.job.delivery


@dataclass(frozen=True)
class StoredResult:
    """A result's JSON text, or, where that is long, its key in the artifact store."""

    text: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Succeeded:
    result: StoredResult


@dataclass(frozen=True)
class Failed:
    """Tried again after a pause if the failure allows it and attempts are left, else the end of the job."""

    failure: Failure


@dataclass(frozen=True)
class Ended:
    """The end of a job without a result of its own: a cancel that was heeded, or a deadline that passed."""

    state: Literal["canceled", "expired"]
    failure: Failure | None = None


@dataclass(frozen=True)
class HandedBack:
    """The job goes to the front again, and the attempt does not count."""


Outcome = Succeeded | Failed | Ended | HandedBack


@dataclass(frozen=True)
class JobFilter:
    states: Collection[State] = ()
    model: str | None = None
    tag: str | None = None
    owner: str | None = None


@dataclass(frozen=True)
class WorkerRecord:
    """What a worker says of itself with every beat. `models` describes each model that it serves, by name."""

    id: str
    host: str
    pid: int
    started_at_s: float
    ready: bool
    models: Mapping[str, Mapping[str, Any]]
    priorities: tuple[Priority, ...]
    job_id: str | None = None
    beat_at_s: float = 0.0


@dataclass(frozen=True)
class QueueStats:
    queued: Mapping[Priority, int]
    oldest_s: Mapping[Priority, float]
    running: int
    queued_video_s: float
    dead_letters: int


@dataclass(frozen=True)
class Swept:
    """What a round of housekeeping did."""

    expired: int = 0
    canceled: int = 0
    requeued: int = 0
    dead: int = 0
    removed: int = 0


class JobQueue(Protocol):
    """Every method may raise QueueUnavailable; those that take a job's id, JobNotFound."""

    policy: QueuePolicy

    def ping(self) -> None:
        """Raises QueueUnavailable unless jobs could be accepted now, QueueUnfit if they could get lost then."""

    def pair(self, store_id: str) -> None:
        """Remembers whose artifacts the jobs refer to; raises StoreMismatch for any other store afterwards."""

    def submit(
        self, request: JobRequest, idempotency: Idempotency | None = None, owner_video_s: float | None = None
    ) -> Submission:
        """Durably accepts a job, once per idempotency key; raises QueueFull or IdempotencyMismatch.

        At most `owner_video_s` seconds of video of the request's owner may wait, this one's among them.
        """

    def recall(self, idempotency_key: str) -> tuple[str, Job] | None:
        """The fingerprint and the job that a key stands for, if it is still kept."""

    def get(self, job_id: str) -> Job: ...

    def find(self, wanted: JobFilter, limit: int, before: str | None = None) -> list[Job]:
        """Newest first; `before` is the id of the last job of the page before."""

    def versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        """How far each of these jobs is; a job that is gone is not in the answer. Cheap, since callers poll it."""

    def events(self, job_id: str, after: str | None = None, limit: int = 100) -> list[Event]:
        """The job's changes, oldest first, behind the event `after`; old progress is forgotten first."""

    def result(self, job_id: str) -> StoredResult:
        """Raises ResultNotThere for a job that has none."""

    def cancel(self, job_id: str) -> Job:
        """Ends a waiting job at once and asks a running one's worker to; a finished job stays as it is."""

    def delete(self, job_id: str) -> None:
        """Forgets a finished job; raises JobNotFinished for any other."""

    def take(self, worker: str, models: Collection[str], priorities: Collection[Priority]) -> Claim | None:
        """The next job for this worker, first of all one whose lease has lapsed, or None.

        A lease is as long as the policy of whoever took the job says, and does not lapse while nobody could renew it.
        Jobs whose record this release cannot read fail on the way.
        """

    def renew(self, claim: Claim) -> Job:
        """Keeps the lease and tells the job as it stands (`canceling` is an order); raises LeaseLost."""

    def report(self, claim: Claim, progress: Progress) -> None:
        """Raises LeaseLost."""

    def settle(self, claim: Claim, outcome: Outcome) -> Job:
        """Ends this delivery; raises LeaseLost, and then nothing has changed. The same outcome twice is no error.

        A job under cancel ends canceled whatever the outcome, unless it has succeeded.
        """

    def sweep(self) -> Swept:
        """Housekeeping, by any process, often: deadlines, pauses that are over, lapsed leases, old records."""

    def beat(self, worker: WorkerRecord) -> None:
        """Says that a worker lives; workers that stay silent are forgotten."""

    def leave(self, worker_id: str) -> None:
        """Forgets a worker; a job whose hand-out it never heard of goes to the front again."""

    def workers(self) -> list[WorkerRecord]: ...

    def stats(self) -> QueueStats: ...

    def notices(self, limit: int = 100) -> list[str]:
        """Ids of jobs with a webhook that have finished, the first to finish first, until `noticed` takes them off."""

    def noticed(self, job_id: str) -> None: ...

    def references(self, keys: Collection[str]) -> set[str]:
        """Those artifacts that a job still needs: videos of jobs that have not finished, results of all jobs."""

    def close(self) -> None: ...
