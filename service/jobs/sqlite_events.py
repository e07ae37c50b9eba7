"""The events of jobs in the SQLite file: a change of a job goes in, what a reader has not seen yet comes out."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Any

from service.jobs.job import Event, Job
from service.localization import Progress

_FORGET = """DELETE FROM events WHERE id IN
    (SELECT id FROM events WHERE job_id = ? ORDER BY kind = 'state', id LIMIT ?)"""


def behind(db: sqlite3.Connection, job_id: str, after: str | None, limit: int) -> list[Event]:
    # An id that is none of ours is that of another queue: the reader has seen nothing of this one.
    seen = int(after) if after is not None and after.isascii() and after.isdigit() and len(after) < 19 else 0
    query = "SELECT id, kind, at_s, data FROM events WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?"
    rows = db.execute(query, (job_id, seen, max(0, limit))).fetchall()
    return [Event(str(row["id"]), row["kind"], row["at_s"], json.loads(row["data"])) for row in rows]


def tell_state(db: sqlite3.Connection, job: Job, most: int) -> None:
    data: dict[str, Any] = {"state": job.state, "attempts": job.attempts}
    if job.failure is not None:
        data["failure"] = asdict(job.failure)
    _tell(db, job, "state", data, most)


def tell_progress(db: sqlite3.Connection, job: Job, progress: Progress, most: int) -> None:
    _tell(db, job, "progress", asdict(progress), most)


def _tell(db: sqlite3.Connection, job: Job, kind: str, data: dict[str, Any], most: int) -> None:
    row = (kind, job.updated_at_s, json.dumps(data), job.id)
    db.execute("INSERT INTO events (kind, at_s, data, job_id) VALUES (?, ?, ?, ?)", row)
    count = db.execute("SELECT count(*) FROM events WHERE job_id = ?", (job.id,)).fetchone()[0]
    if count > most:
        db.execute(_FORGET, (job.id, count - most))
