"""What stands in Redis: requests, outcomes and names go in, as fields; jobs, events and workers come out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from service.jobs.job import (
    Event,
    Job,
    JobRequest,
    StoredVideo,
    failure_from,
    new_id,
    progress_from,
    request_from,
    request_to_dict,
)
from service.jobs.queue import Ended, Failed, Idempotency, Outcome, Succeeded, WorkerRecord

WEBHOOK = "\x01webhook"  # and no tag, since tags hold no control characters


def submission(request: JobRequest, idempotency: Idempotency | None) -> dict[str, Any]:
    return {
        "id": new_id(),
        "request": json.dumps(request_to_dict(request)),
        "model": request.model,
        "priority": request.priority,
        "owner": name(request.owner) if request.owner else "",
        "tags": json.dumps(_names(request), ensure_ascii=False),
        "video": request.video.key,
        "video_ms": round(request.video_s * 1000),
        "deadline": "" if request.deadline_at_s is None else repr(float(request.deadline_at_s)),
        "idem": digest(idempotency.key) if idempotency else "",
        "fingerprint": idempotency.fingerprint if idempotency else "",
    }


def _names(request: JobRequest) -> list[str]:
    tags = sorted(set(request.tags))
    owned = [name(request.owner), *(name(request.owner, tag) for tag in tags)] if request.owner else []
    return [*tags, *owned, *([WEBHOOK] if request.webhook is not None else [])]


def name(owner: str, tag: str | None = None) -> str:
    return f"\x01{owner}\x01" if tag is None else f"\x01{owner}\x01={tag}"


def outcome(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Succeeded):
        return {"outcome": "succeeded", "text": outcome.result.text or "", "key": outcome.result.key or ""}
    if isinstance(outcome, Failed):
        return {"outcome": "failed", "failure": asdict(outcome.failure)}
    if isinstance(outcome, Ended):
        return {"outcome": outcome.state, **({"failure": asdict(outcome.failure)} if outcome.failure else {})}
    return {"outcome": "handed_back"}


def job(fields: dict[str, str]) -> Job:
    return Job(
        id=fields["id"],
        request=request_from(fields["request"], otherwise=_rest_of_request(fields)),
        state=fields["state"],  # type: ignore[arg-type]  # only states are written
        created_at_s=float(fields["created"]),
        updated_at_s=float(fields["updated"]),
        started_at_s=float(fields["started"]) if fields["started"] else None,
        finished_at_s=float(fields["finished"]) if fields["finished"] else None,
        version=int(fields["version"]),
        delivery=int(fields["delivery"]),
        attempts=int(fields["attempts"]),
        worker=fields["worker"] or None,
        progress=progress_from(fields["progress"]) if fields["progress"] else None,
        failure=failure_from(fields["failure"]) if fields["failure"] else None,
        dead_letter=bool(fields["dead"]),
    )


def _rest_of_request(fields: dict[str, str]) -> JobRequest:
    return JobRequest(
        video=StoredVideo(fields["video"], "", 0, float(fields["video_ms"]) / 1000),
        model=fields["model"],
        priority=fields["priority"],  # type: ignore[arg-type]  # only priorities are written
        deadline_at_s=float(fields["deadline"]) if fields["deadline"] else None,
        owner=fields.get("owner", "").strip("\x01"),
    )


def event(entry: str, fields: dict[str, str]) -> Event:
    kind: Any = fields["kind"]
    return Event(entry, kind, float(fields["at"]), json.loads(fields["data"]))


def worker(record: str) -> WorkerRecord:
    moment, text = record.split(" ", 1)
    fields = {name: value for name, value in json.loads(text).items() if name in WorkerRecord.__dataclass_fields__}
    return WorkerRecord(**{**fields, "priorities": tuple(fields["priorities"]), "beat_at_s": float(moment)})


def pairs(flat: Any) -> dict[str, str]:
    """A hash as a script returns it, names and values by turns."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
