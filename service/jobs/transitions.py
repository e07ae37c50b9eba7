"""The state machine of a job as pure functions: a job and what befell it go in, the job as it is then comes out."""

from __future__ import annotations

from dataclasses import replace

from service.errors import DeadlinePassed, WorkerCrashed
from service.jobs.job import Failure, Job, State
from service.jobs.queue import Ended, Failed, HandedBack, Outcome, QueuePolicy, Succeeded


def started(job: Job, worker: str, at_s: float) -> Job:
    return replace(
        _changed(job, "running", at_s),
        started_at_s=at_s,
        delivery=job.delivery + 1,
        attempts=job.attempts + 1,
        worker=worker,
        progress=None,
    )


def settled(job: Job, outcome: Outcome, policy: QueuePolicy, at_s: float) -> Job:
    """What a delivery's outcome makes of a running or canceling job."""
    if isinstance(outcome, Succeeded):
        return replace(_ended(job, "succeeded", at_s), failure=None)
    if job.state == "canceling":
        return canceled(job, at_s)
    if isinstance(outcome, Ended):
        return replace(_ended(job, outcome.state, at_s), failure=outcome.failure)
    if isinstance(outcome, HandedBack):
        return replace(_waiting(job, at_s), attempts=job.attempts - 1)
    return _failed(job, outcome, policy, at_s)


def lapsed(job: Job, policy: QueuePolicy, at_s: float) -> Job:
    """What becomes of a job whose worker fell silent."""
    if job.state == "canceling":
        return canceled(job, at_s)
    message = f"worker {job.worker} stopped renewing its lease"
    return _failed(job, Failed(Failure(WorkerCrashed.code, message, retryable=True)), policy, at_s)


def canceled(job: Job, at_s: float) -> Job:
    return replace(_ended(job, "canceled", at_s), failure=None)


def asked_to_cancel(job: Job, at_s: float) -> Job:
    return _changed(job, "canceling", at_s)


def expired(job: Job, at_s: float) -> Job:
    failure = Failure(DeadlinePassed.code, "The job's deadline passed before a worker was free for it")
    return replace(_ended(job, "expired", at_s), failure=failure)


def pause_s(job: Job, outcome: Outcome, policy: QueuePolicy) -> float:
    """How long a job that is waiting again after this outcome is not to be taken."""
    if job.state != "queued" or not isinstance(outcome, Failed):
        return 0.0
    return float(policy.retry_delay_s * 2.0 ** (job.attempts - 1))


def _failed(job: Job, outcome: Failed, policy: QueuePolicy, at_s: float) -> Job:
    failure = outcome.failure
    if not failure.retryable:
        return replace(_ended(job, "failed", at_s), failure=failure)
    if job.attempts < policy.max_attempts:
        return replace(_waiting(job, at_s), failure=failure)
    message = f"The job was given up after {job.attempts} attempts; the last one ended so: {failure.message}"
    return replace(_ended(job, "failed", at_s), failure=replace(failure, message=message), dead_letter=True)


def _waiting(job: Job, at_s: float) -> Job:
    return replace(_changed(job, "queued", at_s), started_at_s=None, worker=None, progress=None)


def _ended(job: Job, state: State, at_s: float) -> Job:
    return replace(_changed(job, state, at_s), finished_at_s=at_s)


def _changed(job: Job, state: State, at_s: float) -> Job:
    return replace(job, state=state, updated_at_s=at_s, version=job.version + 1)
