"""What waits and runs in the SQLite file, counted: a database goes in, stats and refusals come out."""

from __future__ import annotations

import sqlite3

from service.errors import QueueFull
from service.jobs.job import PRIORITIES, JobRequest
from service.jobs.queue import QueuePolicy, QueueStats

WAITING = """SELECT priority, count(*) AS jobs, sum(video_s) AS video_s, min(created_at_s) AS oldest_at_s
    FROM jobs INDEXED BY jobs_queued WHERE state = 'queued' GROUP BY priority"""
WAITING_OF_OWNER = """SELECT coalesce(sum(video_s), 0) FROM jobs INDEXED BY jobs_owner_queued
    WHERE state = 'queued' AND owner = :owner AND owner <> ''"""
RUNNING_AND_DEAD = """SELECT (SELECT count(*) FROM jobs WHERE state IN ('running', 'canceling')),
    (SELECT count(*) FROM jobs WHERE dead_letter = 1)"""


def stats(db: sqlite3.Connection, now_s: float) -> QueueStats:
    waiting = {row["priority"]: row for row in db.execute(WAITING)}
    running, dead = db.execute(RUNNING_AND_DEAD).fetchone()
    oldest_s = {name: max(0.0, now_s - row["oldest_at_s"]) for name, row in waiting.items()}
    return QueueStats(
        queued={name: waiting[name]["jobs"] if name in waiting else 0 for name in PRIORITIES},
        oldest_s={name: oldest_s.get(name, 0.0) for name in PRIORITIES},
        running=running,
        queued_video_s=sum(row["video_s"] for row in waiting.values()),
        dead_letters=dead,
    )


def admit(db: sqlite3.Connection, request: JobRequest, policy: QueuePolicy, owner_video_s: float | None) -> None:
    """Raises QueueFull for a request that is more than may wait, of all together or of its owner."""
    query = "SELECT count(*), coalesce(sum(video_s), 0) FROM jobs INDEXED BY jobs_queued WHERE state = 'queued'"
    jobs, video_s = db.execute(query).fetchone()
    if jobs + 1 > policy.max_queued_jobs:
        raise QueueFull(f"{jobs} jobs wait already, and at most {policy.max_queued_jobs} may")
    _check_length("video", video_s, request.video_s, policy.max_queued_video_s)
    if request.owner and owner_video_s is not None:
        video_s = db.execute(WAITING_OF_OWNER, {"owner": request.owner}).fetchone()[0]
        _check_length("the caller's video", video_s, request.video_s, owner_video_s)


def _check_length(whose: str, waiting_s: float, video_s: float, most_s: float) -> None:
    if waiting_s + video_s > most_s:
        waiting = f"{waiting_s:.0f} s of {whose} wait already; with this one's {video_s:.0f} s"
        raise QueueFull(f"{waiting} they would be more than the {most_s:.0f} s that may")
