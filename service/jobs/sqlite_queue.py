"""Jobs in one SQLite file on a local disk: requests, claims and outcomes go in, jobs, claims and events come out.

Every change is one transaction that is on the disk (WAL, synchronous=FULL) before its method returns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from service.errors import (
    IdempotencyMismatch,
    JobNotFinished,
    ResultNotThere,
    StoreMismatch,
)
from service.jobs import sqlite_counts, sqlite_events, sqlite_rows, transitions
from service.jobs.job import Event, Failure, Job, JobRequest, Priority, new_id, unreadable
from service.jobs.lease_clock import Clock, Grace, SystemClock
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
    Succeeded,
    Swept,
    WorkerRecord,
)
from service.jobs.sqlite_file import SqliteFile
from service.localization import Progress

_POLICY = QueuePolicy()
_CLOCK = SystemClock()

log = logging.getLogger(__name__)

# The planner would rather go by the index on states, and then sort; these name the index that is made for each.
_LAPSED = (
    "jobs INDEXED BY jobs_running WHERE state IN ('running', 'canceling') AND (boot <> :boot OR until_s <= :lapsing)"
)
_TO_TAKE = """jobs INDEXED BY jobs_to_take WHERE state = 'queued' AND (boot <> :boot OR until_s <= :steady)
    AND (deadline_at_s IS NULL OR deadline_at_s > :wall)
    AND model IN (SELECT value FROM json_each(:models)) AND priority IN (SELECT value FROM json_each(:priorities))"""
_NEXT = f"SELECT * FROM {_TO_TAKE} ORDER BY rank, id LIMIT 1"  # noqa: S608  constants of this module


class SqliteQueue:
    """A JobQueue for the processes and threads of one machine."""

    def __init__(
        self, path: Path, policy: QueuePolicy = _POLICY, clock: Clock = _CLOCK, mounts: str | None = None
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._grace = Grace(clock, policy.lease_s)
        self._file = SqliteFile(path, mounts, self._grace.waited)

    def ping(self) -> None:
        with self._file.write() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('ping', ?)", (str(self._clock.wall_s()),))

    def pair(self, store_id: str) -> None:
        with self._file.write() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('store', ?)", (store_id,))
            known = db.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()[0]
        if known != store_id:
            raise StoreMismatch(f"The queue's jobs refer to artifact store {known}, and this process uses {store_id}")

    def submit(
        self, request: JobRequest, idempotency: Idempotency | None = None, owner_video_s: float | None = None
    ) -> Submission:
        with self._file.write() as db:
            known = self._recall(db, idempotency.key) if idempotency else None
            if known and idempotency:
                _check_fingerprint(known[0], idempotency)
                return Submission(known[1], replayed=True)
            sqlite_counts.admit(db, request, self.policy, owner_video_s)
            job = self._make(db, request)
            if idempotency:
                row = (idempotency.key, idempotency.fingerprint, job.created_at_s, job.id)
                db.execute("INSERT OR REPLACE INTO idempotency (key, fingerprint, at_s, job_id) VALUES (?,?,?,?)", row)
        return Submission(job)

    def recall(self, idempotency_key: str) -> tuple[str, Job] | None:
        with self._file.read() as db:
            return self._recall(db, idempotency_key)

    def get(self, job_id: str) -> Job:
        with self._file.read() as db:
            return sqlite_rows.get(db, job_id)

    def find(self, wanted: JobFilter, limit: int, before: str | None = None) -> list[Job]:
        conditions, values = sqlite_rows.conditions(wanted, before)
        jobs = "jobs" if wanted.owner is None else "jobs INDEXED BY jobs_owner"
        query = f"SELECT * FROM {jobs} WHERE {conditions} ORDER BY id DESC LIMIT :limit"  # noqa: S608
        with self._file.read() as db:
            rows = db.execute(query, {**values, "limit": max(0, limit)}).fetchall()
        return [sqlite_rows.job_from_row(row) for row in rows]

    def versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        query = "SELECT id, version FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
        with self._file.read() as db:
            return dict(map(tuple, db.execute(query, (json.dumps(list(job_ids)),))))

    def events(self, job_id: str, after: str | None = None, limit: int = 100) -> list[Event]:
        with self._file.read() as db:
            sqlite_rows.get(db, job_id)
            return sqlite_events.behind(db, job_id, after, limit)

    def result(self, job_id: str) -> StoredResult:
        with self._file.read() as db:
            job = sqlite_rows.get(db, job_id)
            row = db.execute("SELECT text, key FROM results WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            raise ResultNotThere(f"Job {job_id} has no result; it is {job.state}")
        return StoredResult(row["text"], row["key"])

    def cancel(self, job_id: str) -> Job:
        with self._file.write() as db:
            job = sqlite_rows.get(db, job_id)
            if job.state == "queued":
                return self._move(db, transitions.canceled(job, self._clock.wall_s()))
            if job.state == "running":
                return self._move(db, transitions.asked_to_cancel(job, self._clock.wall_s()), keep_lease=True)
            return job

    def delete(self, job_id: str) -> None:
        with self._file.write() as db:
            job = sqlite_rows.get(db, job_id)
            if not job.finished:
                raise JobNotFinished(f"Job {job_id} is {job.state}; only a finished job can be deleted")
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def take(self, worker: str, models: Collection[str], priorities: Collection[Priority]) -> Claim | None:
        wanted = {"models": json.dumps(list(models)), "priorities": json.dumps(list(priorities))}
        while (found := self._take(worker, wanted)) is not None:
            claim, failure = found
            if failure is None:
                return claim
            log.error("job %s fails: %s", claim.job.id, failure.message)
            self.settle(claim, Failed(failure))
        return None

    def _take(self, worker: str, wanted: dict[str, str]) -> tuple[Claim, Failure | None] | None:
        """A claim, and why its job can only fail, if so."""
        if not self._worth_taking(wanted):
            return None
        with self._file.write() as db:
            self._end_lapsed(db)
            row = db.execute(_NEXT, {**self._now(), **wanted}).fetchone()
            if row is None:
                return None
            job = transitions.started(sqlite_rows.job_from_row(row), worker, self._clock.wall_s())
            return Claim(self._move(db, job, pause_s=self.policy.lease_s), worker), unreadable(row["request"])

    def renew(self, claim: Claim) -> Job:
        with self._file.write() as db:
            job = sqlite_rows.held(db, claim)
            lease = (self._clock.boot, self._clock.steady_s() + self.policy.lease_s, job.id)
            db.execute("UPDATE jobs SET boot = ?, until_s = ? WHERE id = ?", lease)
            return job

    def report(self, claim: Claim, progress: Progress) -> None:
        with self._file.write() as db:
            job, now_s = sqlite_rows.held(db, claim), self._clock.wall_s()
            job = replace(job, progress=progress, updated_at_s=now_s, version=job.version + 1)
            sqlite_rows.save(db, job)
            sqlite_events.tell_progress(db, job, progress, self.policy.max_events)

    def settle(self, claim: Claim, outcome: Outcome) -> Job:
        mark = f"{claim.delivery} {hashlib.sha256(repr(outcome).encode()).hexdigest()}"
        with self._file.write() as db:
            before = sqlite_rows.find(db, claim.job.id)
            # A reply can be lost after the commit; the worker then asks again.
            if before is not None and sqlite_rows.settled(db, before.id) == mark:
                return before
            before = sqlite_rows.held(db, claim)
            job = transitions.settled(before, outcome, self.policy, self._clock.wall_s())
            if isinstance(outcome, Succeeded):
                result = (job.id, outcome.result.text, outcome.result.key)
                db.execute("INSERT INTO results (job_id, text, key) VALUES (?, ?, ?)", result)
            self._move(db, job, pause_s=transitions.pause_s(job, outcome, self.policy))
            front = job.state == "queued" and not isinstance(outcome, Failed)
            sqlite_rows.mark(db, job.id, mark, front=front)
            return job

    def sweep(self) -> Swept:
        if not self._worth_sweeping():
            return Swept()
        with self._file.write() as db:
            lapsed = self._end_lapsed(db)
            expired = self._expire(db)
            removed = self._remove_old(db)
        states = [job.state for job in lapsed]
        dead = states.count("failed")
        return Swept(expired, states.count("canceled"), states.count("queued"), dead, removed)

    def beat(self, worker: WorkerRecord) -> None:
        record = json.dumps(asdict(replace(worker, beat_at_s=self._clock.wall_s())))
        until_s = self._clock.steady_s() + self.policy.worker_silence_s
        with self._file.write() as db:
            row = (worker.id, record, self._clock.boot, until_s)
            db.execute("INSERT OR REPLACE INTO workers (id, record, boot, until_s) VALUES (?, ?, ?, ?)", row)

    def leave(self, worker_id: str) -> None:
        with self._file.write() as db:
            db.execute("DELETE FROM workers WHERE id = ?", (worker_id,))

    def workers(self) -> list[WorkerRecord]:
        query = "SELECT record FROM workers WHERE boot = :boot AND until_s > :steady ORDER BY id"
        with self._file.read() as db:
            return [_worker(row["record"]) for row in db.execute(query, self._now())]

    def stats(self) -> QueueStats:
        with self._file.read() as db:
            return sqlite_counts.stats(db, self._clock.wall_s())

    def notices(self, limit: int = 100) -> list[str]:
        with self._file.read() as db:
            rows = db.execute(_NOTICES, {"limit": max(0, limit)}).fetchall()
        return [row["job_id"] for row in rows]

    def noticed(self, job_id: str) -> None:
        with self._file.write() as db:
            db.execute("DELETE FROM notices WHERE job_id = ?", (job_id,))

    def references(self, keys: Collection[str]) -> set[str]:
        with self._file.read() as db:
            return {row[0] for row in db.execute(_REFERENCES, {"keys": json.dumps(list(keys))})}

    def close(self) -> None:
        self._file.close()

    def _now(self) -> dict[str, Any]:
        clock = self._clock
        lapsing_s = self._grace.lapsing_s()
        return {"boot": clock.boot, "steady": clock.steady_s(), "lapsing": lapsing_s, "wall": clock.wall_s()}

    def _recall(self, db: sqlite3.Connection, key: str) -> tuple[str, Job] | None:
        query = "SELECT fingerprint, jobs.* FROM idempotency JOIN jobs ON jobs.id = job_id WHERE key = ? AND at_s > ?"
        row = db.execute(query, (key, self._clock.wall_s() - self.policy.keep_idempotency_s)).fetchone()
        return None if row is None else (row["fingerprint"], sqlite_rows.job_from_row(row))

    def _make(self, db: sqlite3.Connection, request: JobRequest) -> Job:
        now_s = self._clock.wall_s()
        job = Job(new_id(), request, "queued", created_at_s=now_s, updated_at_s=now_s)
        row = {**sqlite_rows.job_to_row(job), "rank": now_s + self.policy.ageing_s[request.priority]}
        names = ", ".join(row)
        db.execute(f"INSERT INTO jobs ({names}) VALUES ({', '.join(f':{name}' for name in row)})", row)  # noqa: S608
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, job.id) for tag in request.tags])
        sqlite_events.tell_state(db, job, self.policy.max_events)
        return job

    def _move(self, db: sqlite3.Connection, job: Job, *, pause_s: float = 0.0, keep_lease: bool = False) -> Job:
        """Writes a job in its new state, which for `pause_s` is a worker's own or keeps the job from being taken."""
        sqlite_rows.save(db, job)
        if not keep_lease:
            until = (self._clock.boot, self._clock.steady_s() + pause_s, job.id)
            db.execute("UPDATE jobs SET boot = ?, until_s = ? WHERE id = ?", until)
        sqlite_events.tell_state(db, job, self.policy.max_events)
        return job

    def _worth_taking(self, wanted: dict[str, str]) -> bool:
        """Idle workers ask often; they shall not keep those that write waiting."""
        query = f"SELECT EXISTS (SELECT 1 FROM {_LAPSED}) OR EXISTS (SELECT 1 FROM {_TO_TAKE})"  # noqa: S608
        with self._file.read() as db:
            return bool(db.execute(query, {**self._now(), **wanted}).fetchone()[0])

    def _worth_sweeping(self) -> bool:
        with self._file.read() as db:
            return bool(db.execute(_WORTH_SWEEPING, self._limits()).fetchone()[0])

    def _limits(self) -> dict[str, Any]:
        now, policy = self._now(), self.policy
        return {**now, "jobs": now["wall"] - policy.keep_jobs_s, "keys": now["wall"] - policy.keep_idempotency_s}

    def _end_lapsed(self, db: sqlite3.Connection) -> list[Job]:
        rows = db.execute(f"SELECT * FROM {_LAPSED} ORDER BY id", self._now()).fetchall()  # noqa: S608
        now_s = self._clock.wall_s()
        jobs = [transitions.lapsed(sqlite_rows.job_from_row(row), self.policy, now_s) for row in rows]
        for job in jobs:
            self._move(db, job)
            # Before those that were handed back: these have waited for a lease's length already.
            db.execute("UPDATE jobs SET rank = ? WHERE id = ?", (sqlite_rows.FRONT - 1, job.id))
        return jobs

    def _expire(self, db: sqlite3.Connection) -> int:
        query = "SELECT * FROM jobs INDEXED BY jobs_deadline WHERE state = 'queued' AND deadline_at_s <= ?"
        now_s = self._clock.wall_s()
        rows = db.execute(query, (now_s,)).fetchall()
        for row in rows:
            self._move(db, transitions.expired(sqlite_rows.job_from_row(row), now_s))
        return len(rows)

    def _remove_old(self, db: sqlite3.Connection) -> int:
        limits = self._limits()
        db.execute("DELETE FROM idempotency WHERE at_s <= :keys", limits)
        db.execute("DELETE FROM workers WHERE boot <> :boot OR until_s <= :steady", limits)
        return db.execute("DELETE FROM jobs WHERE finished_at_s <= :jobs", limits).rowcount


_NOTICES = "SELECT job_id FROM notices ORDER BY id LIMIT :limit"
_REFERENCES = """SELECT value FROM json_each(:keys) WHERE
    EXISTS (SELECT 1 FROM jobs WHERE video_key = value AND finished_at_s IS NULL)
    OR EXISTS (SELECT 1 FROM results WHERE key = value)"""
_WORTH_SWEEPING = f"""SELECT EXISTS (SELECT 1 FROM {_LAPSED})
    OR EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_deadline WHERE state = 'queued' AND deadline_at_s <= :wall)
    OR EXISTS (SELECT 1 FROM jobs WHERE finished_at_s <= :jobs)
    OR EXISTS (SELECT 1 FROM idempotency WHERE at_s <= :keys)
    OR EXISTS (SELECT 1 FROM workers WHERE boot <> :boot OR until_s <= :steady)"""  # noqa: S608


def _check_fingerprint(known: str, idempotency: Idempotency) -> None:
    if known != idempotency.fingerprint:
        raise IdempotencyMismatch(
            f"The idempotency key {idempotency.key!r} was used before, for another request; take a new key"
        )


def _worker(record: str) -> WorkerRecord:
    fields = {name: value for name, value in json.loads(record).items() if name in WorkerRecord.__dataclass_fields__}
    return WorkerRecord(**{**fields, "priorities": tuple(fields["priorities"])})
