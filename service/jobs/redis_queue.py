"""Jobs in Redis, for any number of machines: requests, claims and outcomes go in, jobs, claims and events come out.

Keys, all of them under `{namespace}:` (with the braces, so that they belong to one slot):

| key | type | holds |
|---|---|---|
| `q:{model}:{priority}` | stream, group `workers` | one entry per job that waits or runs; gone when there is none |
| `q:{model}:{priority}:again` | stream, group `workers` | the same for jobs whose pause after a failure is over |
| `streams` | set | the streams that there are |
| `job:{id}` | hash | the record of a job |
| `result:{id}` | string | its result, if that is short |
| `events:{id}` | stream | its events, `max_events` of them; an event's id is its entry's |
| `idem:{sha256 of key}` | string | "job fingerprint", until `keep_idempotency_s` is over |
| `ix:{state}:{model}:{name}` | zset | ids in order, for each combination, either part may be empty |
| `waiting:{priority}` | zset | queued jobs by the moment of their making |
| `delayed` | zset | queued jobs that pause before another attempt, by its moment |
| `deadlines` | zset | queued jobs with a deadline, by that |
| `finished` | zset | finished jobs by the moment of their end |
| `dlq` | stream | jobs that were given up |
| `take:{worker}` | string, 10 minutes | "token job delivery" of its last take, for one whose reply was lost |
| `workers` | hash | "moment record" of the last beat of each |
| `heard` | hash | `at`: when a worker or janitor last was, `run`: of the server, `late`: how often in a row, `grace` |
| `refs` | hash | how many jobs need an artifact |
| `totals` | hash | milliseconds of video that are queued, per priority |
| `owners` | hash | the same per owner |
| `store` | string | the id of the artifact store |
| `ping` | string, 1 minute | the last moment at which a write went through |

The names of a job are its tags, its owner, its owner with each tag, and one that all jobs with a webhook share: a
finished job under that name is one to give notice of, until it is taken off. To a worker of an earlier release they are
all tags, so that it too moves a job in its owner's indexes, and gives notice of an end.

A lease is the idle time of a stream's pending entry; the delivery in the record fences. The moment is always Redis's.
A lease is as long as its owner's policy says, and does not end while nobody could renew it: after a pause of the server
(`heard`) or its restart, every owner has a lease's time to renew.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from service.errors import (
    IdempotencyMismatch,
    JobNotFinished,
    JobNotFound,
    LeaseLost,
    QueueFull,
    QueueUnavailable,
    ResultNotThere,
    StoreMismatch,
)
from service.jobs import redis_fields
from service.jobs.job import (
    PRIORITIES,
    STATES,
    Event,
    Job,
    JobRequest,
    Priority,
    unreadable,
)
from service.jobs.queue import (
    Claim,
    Failed,
    Idempotency,
    JobFilter,
    Outcome,
    QueuePolicy,
    QueueStats,
    StoredResult,
    Submission,
    Swept,
    WorkerRecord,
)
from service.jobs.redis_connection import RedisConnection
from service.localization import Progress

_POLICY = QueuePolicy()
_SCRIPT = ("redis_records.lua", "redis_leases.lua", "redis_steps.lua")
_ENTRY_ID = re.compile("[0-9]{1,18}-[0-9]{1,18}")

log = logging.getLogger(__name__)


class RedisQueue:
    """A JobQueue; processes and threads share it."""

    def __init__(self, url: str, policy: QueuePolicy = _POLICY, namespace: str = "tal") -> None:
        self.policy = policy
        self._unanswered: dict[str, str] = {}
        self._redis = RedisConnection(url, namespace, _SCRIPT, {**vars(policy), "ageing_s": dict(policy.ageing_s)})
        if self._redis.lossy:
            log.warning(
                "This Redis loses accepted jobs when it crashes (%s); set 'appendonly yes' and 'appendfsync always'",
                self._redis.lossy,
            )

    def ping(self) -> None:
        self._redis.check()
        self._redis.step("ping")

    def pair(self, store_id: str) -> None:
        known = self._redis.step("pair", store=store_id)[1]
        if known != store_id:
            raise StoreMismatch(f"The queue's jobs refer to artifact store {known}, and this process uses {store_id}")

    def submit(
        self, request: JobRequest, idempotency: Idempotency | None = None, owner_video_s: float | None = None
    ) -> Submission:
        limit = {"owner_video_s": owner_video_s} if request.owner and owner_video_s is not None else {}
        reply = self._redis.step("submit", **redis_fields.submission(request, idempotency), **limit)
        if reply[0] == "IdempotencyMismatch" and idempotency:
            raise IdempotencyMismatch(
                f"The idempotency key {idempotency.key!r} was used before, for another request; take a new key"
            )
        if reply[0] == "QueueFull":
            raise QueueFull(reply[1])
        return Submission(redis_fields.job(redis_fields.pairs(reply[1])), replayed=bool(reply[2]))

    def recall(self, idempotency_key: str) -> tuple[str, Job] | None:
        reply = self._redis.step("recall", idem=redis_fields.digest(idempotency_key))
        return (reply[1], redis_fields.job(redis_fields.pairs(reply[2]))) if len(reply) > 1 else None

    def get(self, job_id: str) -> Job:
        fields = self._redis.fields(f"job:{job_id}")
        if not fields:
            raise _not_found(job_id)
        return redis_fields.job(fields)

    def find(self, wanted: JobFilter, limit: int, before: str | None = None) -> list[Job]:
        name = wanted.tag if wanted.owner is None else redis_fields.name(wanted.owner, wanted.tag)
        named = {"model": wanted.model, "name": name, "before": before}
        given = {name: value for name, value in named.items() if value is not None}
        states = sorted(set(wanted.states or STATES))
        reply = self._redis.step("find", states=states, limit=max(0, limit), **given)
        return [redis_fields.job(redis_fields.pairs(flat)) for flat in reply[1]]

    def versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        known = self._redis.step("versions", ids=list(job_ids))[1]
        return {job_id: int(version) for job_id, version in zip(job_ids, known, strict=True) if version}

    def events(self, job_id: str, after: str | None = None, limit: int = 100) -> list[Event]:
        # An id that is none of ours is that of another queue: the reader has seen nothing of this one.
        start = f"({after}" if after is not None and _ENTRY_ID.fullmatch(after) else "-"
        reply = self._redis.step("events", id=job_id, after=start, limit=max(0, limit))
        if reply[0] == "JobNotFound":
            raise _not_found(job_id)
        return [redis_fields.event(entry, redis_fields.pairs(flat)) for entry, flat in reply[1] or []]

    def result(self, job_id: str) -> StoredResult:
        reply = self._redis.step("result", id=job_id)
        if reply[0] == "JobNotFound":
            raise _not_found(job_id)
        _, state, key, text = reply
        if state != "succeeded":
            raise ResultNotThere(f"Job {job_id} has no result; it is {state}")
        return StoredResult(key=key) if key else StoredResult(text=text)

    def cancel(self, job_id: str) -> Job:
        reply = self._redis.step("cancel", id=job_id)
        if reply[0] == "JobNotFound":
            raise _not_found(job_id)
        return redis_fields.job(redis_fields.pairs(reply[1]))

    def delete(self, job_id: str) -> None:
        reply = self._redis.step("delete", id=job_id)
        if reply[0] == "JobNotFound":
            raise _not_found(job_id)
        if reply[0] == "JobNotFinished":
            raise JobNotFinished(f"Job {job_id} is {reply[1]}; only a finished job can be deleted")

    def take(self, worker: str, models: Collection[str], priorities: Collection[Priority]) -> Claim | None:
        while (found := self._take(worker, list(models), list(priorities))) is not None:
            claim, failure = Claim(redis_fields.job(found), worker), unreadable(found["request"])
            if failure is None:
                return claim
            log.error("job %s fails: %s", claim.job.id, failure.message)
            self.settle(claim, Failed(failure))
        return None

    def renew(self, claim: Claim) -> Job:
        return redis_fields.job(redis_fields.pairs(self._claimed("renew", claim)[1]))

    def report(self, claim: Claim, progress: Progress) -> None:
        self._claimed("report", claim, progress=json.dumps(asdict(progress)))

    def settle(self, claim: Claim, outcome: Outcome) -> Job:
        mark = f"{claim.delivery} {redis_fields.digest(repr(outcome))}"
        return redis_fields.job(
            redis_fields.pairs(self._claimed("settle", claim, mark=mark, **redis_fields.outcome(outcome))[1])
        )

    def sweep(self) -> Swept:
        return Swept(*self._redis.step("sweep")[1])

    def beat(self, worker: WorkerRecord) -> None:
        self._redis.step("beat", id=worker.id, record=json.dumps(asdict(worker)))

    def leave(self, worker_id: str) -> None:
        self._redis.step("leave", worker=worker_id, token=self._unanswered.pop(worker_id, ""))

    def workers(self) -> list[WorkerRecord]:
        return sorted(map(redis_fields.worker, self._redis.step("workers")[1]), key=lambda worker: worker.id)

    def stats(self) -> QueueStats:
        _, queued, oldest_s, running, video_ms, dead = self._redis.step("stats")
        return QueueStats(
            queued=dict(zip(PRIORITIES, queued, strict=True)),
            oldest_s={name: max(0.0, float(age_s)) for name, age_s in zip(PRIORITIES, oldest_s, strict=True)},
            running=running,
            queued_video_s=int(video_ms) / 1000,
            dead_letters=dead,
        )

    def notices(self, limit: int = 100) -> list[str]:
        return list(self._redis.step("notices", name=redis_fields.WEBHOOK, limit=max(0, limit))[1])

    def noticed(self, job_id: str) -> None:
        self._redis.step("noticed", name=redis_fields.WEBHOOK, id=job_id)

    def references(self, keys: Collection[str]) -> set[str]:
        return set(self._redis.step("references", keys=list(keys))[1])

    def close(self) -> None:
        self._redis.close()

    def _take(self, worker: str, models: list[str], priorities: list[Priority]) -> dict[str, str] | None:
        # A take whose reply was lost may have handed out a job; asked again with its token, it is the same job.
        token = self._unanswered.pop(worker, None) or secrets.token_hex(8)
        try:
            reply = self._redis.step("take", worker=worker, models=models, priorities=priorities, token=token)
        except QueueUnavailable:
            self._unanswered[worker] = token
            raise
        return redis_fields.pairs(reply[1]) if len(reply) > 1 else None

    def _claimed(self, step: str, claim: Claim, **args: Any) -> list[Any]:
        reply = self._redis.step(step, id=claim.job.id, delivery=claim.delivery, worker=claim.worker, **args)
        if reply[0] == "LeaseLost":
            raise LeaseLost(f"Delivery {claim.delivery} of job {claim.job.id} to {claim.worker} is over")
        return reply


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id!r}; it was deleted, is too old, or never was")
