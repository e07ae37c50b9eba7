"""A finished job in; the message that tells its webhook, with every attempt to send it, as a record, out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from service.jobs.job import Job
from service.jobs.records import Record

KIND = "message"
ID_PATTERN = "msg_[0-9a-f]{32}(_[A-Za-z0-9._~-]{1,100})?"
ID = re.compile(ID_PATTERN)
# After its last attempt.
KEEP_S = 7 * 86400.0
MOST_ATTEMPTS = 50
MessageState = Literal["pending", "delivered", "given_up"]


@dataclass(frozen=True)
class Attempt:
    """`status` is the receiver's; `error` says why there is none, or what is wrong with it."""

    at_s: float
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Message:
    """`tries` counts attempts since the message was made or last asked for again; `attempts` are the latest of all."""

    id: str
    job_id: str
    url: str
    event: Mapping[str, Any]
    created_at_s: float
    expires_at_s: float
    due_at_s: float | None = None
    state: MessageState = "pending"
    tries: int = 0
    attempts: tuple[Attempt, ...] = ()
    version: int = 0

    def tried(self, attempt: Attempt) -> Message:
        kept = (*self.attempts, attempt)[-MOST_ATTEMPTS:]
        return replace(self, attempts=kept, expires_at_s=max(self.expires_at_s, attempt.at_s + KEEP_S))

    def again(self, now_s: float) -> Message:
        """Due at once, with all its tries before it."""
        return replace(self, state="pending", tries=0, due_at_s=now_s, expires_at_s=now_s + KEEP_S)

    def body(self) -> bytes:
        return json.dumps(self.event, separators=(",", ":"), ensure_ascii=False).encode()


def message_of(job: Job, url: str, data: Mapping[str, Any], now_s: float) -> Message:
    """`data` is the job's document. The same job always makes the same id, so it can have no second message."""
    finished_at = datetime.fromtimestamp(job.finished_at_s or job.updated_at_s, UTC)
    event = {
        "type": f"job.{job.state}",
        "timestamp": finished_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": data,
    }
    return Message(message_id(job.id, job.request.owner), job.id, url, event, now_s, now_s + KEEP_S, due_at_s=now_s)


def message_id(job_id: str, owner: str) -> str:
    return f"msg_{job_id}_{owner}" if owner else f"msg_{job_id}"


def prefix_of(owner: str) -> str:
    """Begins the records of an owner's messages."""
    return f"{owner or '-'}/"


def owner_of(message: str) -> str | None:
    """None for what is no message's id."""
    found = ID.fullmatch(message)
    return (found[1] or "").removeprefix("_") if found else None


def write(message: Message) -> Record:
    body = {
        "id": message.id,
        "job_id": message.job_id,
        "url": message.url,
        "event": message.event,
        "created_at_s": message.created_at_s,
        "state": message.state,
        "tries": message.tries,
        "attempts": [asdict(attempt) for attempt in message.attempts],
    }
    record_id = prefix_of(owner_of(message.id) or "") + message.id
    return Record(KIND, record_id, body, message.version, message.due_at_s, message.expires_at_s)


def read(record: Record) -> Message:
    body = record.body
    return Message(
        id=body["id"],
        job_id=body["job_id"],
        url=body["url"],
        event=body["event"],
        created_at_s=body["created_at_s"],
        expires_at_s=record.expires_at_s or body["created_at_s"] + KEEP_S,
        due_at_s=record.due_at_s,
        state=body["state"],
        tries=body["tries"],
        attempts=tuple(Attempt(one["at_s"], one.get("status"), one.get("error")) for one in body["attempts"]),
        version=record.version,
    )
