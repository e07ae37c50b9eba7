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
| `ix:{state}:{model}:{tag}` | zset | ids in order, for each combination, either part may be empty |
| `waiting:{priority}` | zset | queued jobs by the moment of their making |
| `delayed` | zset | queued jobs that pause before another attempt, by its moment |
| `deadlines` | zset | queued jobs with a deadline, by that |
| `finished` | zset | finished jobs by the moment of their end |
| `dlq` | stream | jobs that were given up |
| `take:{worker}` | string, 10 minutes | "token job delivery" of its last take, for one whose reply was lost |
| `workers` | hash | "moment record" of the last beat of each |
| `refs` | hash | how many jobs need an artifact |
| `totals` | hash | milliseconds of video that are queued, per priority |
| `store` | string | the id of the artifact store |
| `ping` | string, 1 minute | the last moment at which a write went through |

A lease is the idle time of a stream's pending entry; the delivery in the record fences. The moment is always Redis's.
"""

from __future__ import annotations

import hashlib
import json
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
from service.jobs.job import (
    PRIORITIES,
    STATES,
    Event,
    Failure,
    Job,
    JobRequest,
    Priority,
    new_id,
    request_from_dict,
    request_to_dict,
)
from service.jobs.queue import (
    Claim,
    Ended,
    Failed,
    Idempotency,
    JobFilter,
    Outcome,
    QueuePolicy,
    QueueStats,
    StoredResult,
    Submission,
    Succeeded,
    Swept,
    WorkerRecord,
)
from service.jobs.redis_connection import RedisConnection
from service.localization import Progress

_POLICY = QueuePolicy()
_ENTRY_ID = re.compile("[0-9]{1,18}-[0-9]{1,18}")


class RedisQueue:
    """A JobQueue; processes and threads share it."""

    def __init__(self, url: str, policy: QueuePolicy = _POLICY, namespace: str = "tal") -> None:
        self.policy = policy
        self._unanswered: dict[str, str] = {}
        self._redis = RedisConnection(url, f"{{{namespace}}}", {**vars(policy), "ageing_s": dict(policy.ageing_s)})

    def ping(self) -> None:
        self._redis.step("ping")

    def pair(self, store_id: str) -> None:
        known = self._redis.step("pair", store=store_id)[1]
        if known != store_id:
            raise StoreMismatch(f"The queue's jobs refer to artifact store {known}, and this process uses {store_id}")

    def submit(self, request: JobRequest, idempotency: Idempotency | None = None) -> Submission:
        reply = self._redis.step("submit", **_submission(request, idempotency))
        if reply[0] == "IdempotencyMismatch" and idempotency:
            raise IdempotencyMismatch(
                f"The idempotency key {idempotency.key!r} was used before, for another request; take a new key"
            )
        if reply[0] == "QueueFull":
            raise QueueFull(reply[1])
        return Submission(_job(_pairs(reply[1])), replayed=bool(reply[2]))

    def recall(self, idempotency_key: str) -> tuple[str, Job] | None:
        reply = self._redis.step("recall", idem=_digest(idempotency_key))
        return (reply[1], _job(_pairs(reply[2]))) if len(reply) > 1 else None

    def get(self, job_id: str) -> Job:
        fields = self._redis.fields(f"job:{job_id}")
        if not fields:
            raise _not_found(job_id)
        return _job(fields)

    def find(self, wanted: JobFilter, limit: int, before: str | None = None) -> list[Job]:
        named = {"model": wanted.model, "tag": wanted.tag, "before": before}
        given = {name: value for name, value in named.items() if value is not None}
        states = sorted(set(wanted.states or STATES))
        reply = self._redis.step("find", states=states, limit=max(0, limit), **given)
        return [_job(_pairs(flat)) for flat in reply[1]]

    def versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        known = self._redis.step("versions", ids=list(job_ids))[1]
        return {job_id: int(version) for job_id, version in zip(job_ids, known, strict=True) if version}

    def events(self, job_id: str, after: str | None = None, limit: int = 100) -> list[Event]:
        # An id that is none of ours is that of another queue: the reader has seen nothing of this one.
        start = f"({after}" if after is not None and _ENTRY_ID.fullmatch(after) else "-"
        reply = self._redis.step("events", id=job_id, after=start, limit=max(0, limit))
        if reply[0] == "JobNotFound":
            raise _not_found(job_id)
        return [_event(entry, _pairs(flat)) for entry, flat in reply[1] or []]

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
        return _job(_pairs(reply[1]))

    def delete(self, job_id: str) -> None:
        reply = self._redis.step("delete", id=job_id)
        if reply[0] == "JobNotFound":
            raise _not_found(job_id)
        if reply[0] == "JobNotFinished":
            raise JobNotFinished(f"Job {job_id} is {reply[1]}; only a finished job can be deleted")

    def take(self, worker: str, models: Collection[str], priorities: Collection[Priority]) -> Claim | None:
        # A take whose reply was lost may have handed out a job; asked again with its token, it is the same job.
        token = self._unanswered.pop(worker, None) or secrets.token_hex(8)
        try:
            reply = self._redis.step(
                "take", worker=worker, models=list(models), priorities=list(priorities), token=token
            )
        except QueueUnavailable:
            self._unanswered[worker] = token
            raise
        return Claim(_job(_pairs(reply[1])), worker) if len(reply) > 1 else None

    def renew(self, claim: Claim) -> Job:
        return _job(_pairs(self._claimed("renew", claim)[1]))

    def report(self, claim: Claim, progress: Progress) -> None:
        self._claimed("report", claim, progress=json.dumps(asdict(progress)))

    def settle(self, claim: Claim, outcome: Outcome) -> Job:
        mark = f"{claim.delivery} {_digest(repr(outcome))}"
        return _job(_pairs(self._claimed("settle", claim, mark=mark, **_outcome(outcome))[1]))

    def sweep(self) -> Swept:
        return Swept(*self._redis.step("sweep")[1])

    def beat(self, worker: WorkerRecord) -> None:
        self._redis.step("beat", id=worker.id, record=json.dumps(asdict(worker)))

    def leave(self, worker_id: str) -> None:
        self._redis.step("leave", id=worker_id)

    def workers(self) -> list[WorkerRecord]:
        return sorted(map(_worker, self._redis.step("workers")[1]), key=lambda worker: worker.id)

    def stats(self) -> QueueStats:
        _, queued, oldest_s, running, video_ms, dead = self._redis.step("stats")
        return QueueStats(
            queued=dict(zip(PRIORITIES, queued, strict=True)),
            oldest_s={name: max(0.0, float(age_s)) for name, age_s in zip(PRIORITIES, oldest_s, strict=True)},
            running=running,
            queued_video_s=int(video_ms) / 1000,
            dead_letters=dead,
        )

    def references(self, keys: Collection[str]) -> set[str]:
        return set(self._redis.step("references", keys=list(keys))[1])

    def close(self) -> None:
        self._redis.close()

    def _claimed(self, step: str, claim: Claim, **args: Any) -> list[Any]:
        reply = self._redis.step(step, id=claim.job.id, delivery=claim.delivery, worker=claim.worker, **args)
        if reply[0] == "LeaseLost":
            raise LeaseLost(f"Delivery {claim.delivery} of job {claim.job.id} to {claim.worker} is over")
        return reply


def _submission(request: JobRequest, idempotency: Idempotency | None) -> dict[str, Any]:
    return {
        "id": new_id(),
        "request": json.dumps(request_to_dict(request)),
        "model": request.model,
        "priority": request.priority,
        "tags": json.dumps(sorted(set(request.tags)), ensure_ascii=False),
        "video": request.video.key,
        "video_ms": round(request.video_s * 1000),
        "deadline": "" if request.deadline_at_s is None else repr(float(request.deadline_at_s)),
        "idem": _digest(idempotency.key) if idempotency else "",
        "fingerprint": idempotency.fingerprint if idempotency else "",
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Succeeded):
        return {"outcome": "succeeded", "text": outcome.result.text or "", "key": outcome.result.key or ""}
    if isinstance(outcome, Failed):
        return {"outcome": "failed", "failure": asdict(outcome.failure)}
    if isinstance(outcome, Ended):
        return {"outcome": outcome.state, **({"failure": asdict(outcome.failure)} if outcome.failure else {})}
    return {"outcome": "handed_back"}


def _job(fields: dict[str, str]) -> Job:
    return Job(
        id=fields["id"],
        request=request_from_dict(json.loads(fields["request"])),
        state=fields["state"],  # type: ignore[arg-type]  # only states are written
        created_at_s=float(fields["created"]),
        updated_at_s=float(fields["updated"]),
        started_at_s=float(fields["started"]) if fields["started"] else None,
        finished_at_s=float(fields["finished"]) if fields["finished"] else None,
        version=int(fields["version"]),
        delivery=int(fields["delivery"]),
        attempts=int(fields["attempts"]),
        worker=fields["worker"] or None,
        progress=Progress(**json.loads(fields["progress"])) if fields["progress"] else None,
        failure=Failure(**json.loads(fields["failure"])) if fields["failure"] else None,
        dead_letter=bool(fields["dead"]),
    )


def _event(entry: str, fields: dict[str, str]) -> Event:
    kind: Any = fields["kind"]
    return Event(entry, kind, float(fields["at"]), json.loads(fields["data"]))


def _worker(record: str) -> WorkerRecord:
    moment, text = record.split(" ", 1)
    fields = {name: value for name, value in json.loads(text).items() if name in WorkerRecord.__dataclass_fields__}
    return WorkerRecord(**{**fields, "priorities": tuple(fields["priorities"]), "beat_at_s": float(moment)})


def _pairs(flat: Any) -> dict[str, str]:
    """A hash as a script returns it, names and values by turns."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id!r}; it was deleted, is too old, or never was")
