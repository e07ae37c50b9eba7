"""Jobs as rows of the SQLite file: a job goes in and its columns come out, and the other way round."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Any

from service.errors import JobNotFound, LeaseLost
from service.jobs.job import (
    Job,
    JobRequest,
    StoredVideo,
    failure_from,
    progress_from,
    request_from,
    request_to_dict,
)
from service.jobs.queue import Claim, JobFilter

FRONT = 0.0  # a rank before that of every job that waits for its first turn


def job_to_row(job: Job) -> dict[str, Any]:
    """The columns that tell a job; those that never change after its making are among them."""
    request = job.request
    return {
        **{name: getattr(job, name) for name in _PLAIN},
        "request": json.dumps(request_to_dict(request)),
        "model": request.model,
        "priority": request.priority,
        "video_key": request.video.key,
        "video_s": request.video_s,
        "deadline_at_s": request.deadline_at_s,
        "owner": request.owner,
        "webhook": int(request.webhook is not None),
        "progress": None if job.progress is None else json.dumps(asdict(job.progress)),
        "failure": None if job.failure is None else json.dumps(asdict(job.failure)),
        "dead_letter": int(job.dead_letter),
    }


_PLAIN = (
    *("id", "state", "created_at_s", "updated_at_s", "started_at_s", "finished_at_s"),
    *("version", "delivery", "attempts", "worker"),
)


def job_from_row(row: sqlite3.Row) -> Job:
    return Job(
        **{name: row[name] for name in _PLAIN},
        request=request_from(row["request"], otherwise=_rest_of_request(row)),
        progress=None if row["progress"] is None else progress_from(row["progress"]),
        failure=None if row["failure"] is None else failure_from(row["failure"]),
        dead_letter=bool(row["dead_letter"]),
    )


def _rest_of_request(row: sqlite3.Row) -> JobRequest:
    return JobRequest(
        video=StoredVideo(row["video_key"], "", 0, row["video_s"]),
        model=row["model"],
        priority=row["priority"],
        deadline_at_s=row["deadline_at_s"],
        owner=row["owner"],
    )


def find(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else job_from_row(row)


def get(db: sqlite3.Connection, job_id: str) -> Job:
    job = find(db, job_id)
    if job is None:
        raise JobNotFound(f"There is no job {job_id!r}; it was deleted, is too old, or never was")
    return job


def held(db: sqlite3.Connection, claim: Claim) -> Job:
    """The claim's job, if the claim still stands."""
    job = find(db, claim.job.id)
    if job is None or (job.delivery, job.worker) != (claim.delivery, claim.worker) or job.finished:
        raise LeaseLost(f"Delivery {claim.delivery} of job {claim.job.id} to {claim.worker} is over")
    return job


def save(db: sqlite3.Connection, job: Job) -> None:
    row = job_to_row(job)
    changes = ", ".join(f"{name} = :{name}" for name in _CHANGING)
    db.execute(f"UPDATE jobs SET {changes} WHERE id = :id", row)  # noqa: S608


_CHANGING = (
    *("state", "updated_at_s", "started_at_s", "finished_at_s", "version", "delivery", "attempts", "worker"),
    *("progress", "failure", "dead_letter"),
)


def settled(db: sqlite3.Connection, job_id: str) -> str:
    return str(db.execute("SELECT settled FROM jobs WHERE id = ?", (job_id,)).fetchone()[0])


def mark(db: sqlite3.Connection, job_id: str, mark: str, *, front: bool) -> None:
    db.execute("UPDATE jobs SET settled = ? WHERE id = ?", (mark, job_id))
    if front:
        db.execute("UPDATE jobs SET rank = ? WHERE id = ?", (FRONT, job_id))


def conditions(wanted: JobFilter, before: str | None) -> tuple[str, dict[str, Any]]:
    given = {
        "state IN (SELECT value FROM json_each(:states))": json.dumps(list(wanted.states)) if wanted.states else None,
        "model = :model": wanted.model,
        "id IN (SELECT job_id FROM tags WHERE tag = :tag)": wanted.tag,
        "owner = :owner AND owner <> ''": wanted.owner,
        "id < :before": before,
    }
    values = dict(zip(("states", "model", "tag", "owner", "before"), given.values(), strict=True))
    return " AND ".join(["1", *(text for text, value in given.items() if value is not None)]), values
