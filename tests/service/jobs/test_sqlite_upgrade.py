"""A queue file of the release before: this one adds what it needs, and the two go on side by side."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import QueueFull
from service.jobs import sqlite_schema
from service.jobs.job import PRIORITIES, new_id
from service.jobs.queue import Claim, JobFilter, StoredResult, Succeeded
from service.jobs.records import Record
from service.jobs.sqlite_queue import SqliteQueue
from service.jobs.sqlite_records import SqliteRecords
from tests.service.jobs.harness import POLICY, MovableClock, request

SUCCEEDED, RUNNING, QUEUED = (
    "01a20f381eed84084aa218a34e0cb662",
    "01a20f381ef90db7a04652ba708b8c88",
    "01a20f381f0089563ed165e2c08fc7b9",
)
HOOK = "https://example.com/hook"
DONE = Succeeded(StoredResult(text="{}"))

# What the earlier release says to the file: it names the columns that it knows.
EARLIER_INSERT = """INSERT INTO jobs (id, state, created_at_s, updated_at_s, started_at_s, finished_at_s, version,
    delivery, attempts, worker, request, model, priority, video_key, video_s, deadline_at_s, progress, failure,
    dead_letter, rank) SELECT :id, 'queued', created_at_s, updated_at_s, NULL, NULL, 1, 0, 0, NULL, request, model,
    priority, video_key, video_s, deadline_at_s, NULL, NULL, 0, rank FROM jobs WHERE id = :like"""
EARLIER_SAVE = """UPDATE jobs SET state = :state, updated_at_s = :now, started_at_s = :now, finished_at_s = :finished,
    version = version + 1, delivery = 1, attempts = 1, worker = 'w', progress = NULL, failure = NULL, dead_letter = 0
    WHERE id = :id"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = sqlite3.connect(tmp_path / "q")
    made.executescript((Path(__file__).parent / "first_form.sql").read_text())
    made.close()
    return tmp_path / "q"


@pytest.fixture
def earlier(path: Path) -> Iterator[sqlite3.Connection]:
    """Of a process of the earlier release, which had the file open before this one came."""
    connection = sqlite_schema.connect(path)
    assert connection.execute("SELECT count(*) FROM jobs").fetchone()[0] == 3
    yield connection
    connection.close()


@pytest.fixture
def queue(earlier: sqlite3.Connection, path: Path) -> Iterator[SqliteQueue]:
    queue = SqliteQueue(path, POLICY, MovableClock())
    yield queue
    queue.close()


def end_by_the_earlier(earlier: sqlite3.Connection, job_id: str) -> None:
    for state, finished in (("running", None), ("succeeded", 1.8e9)):
        earlier.execute(EARLIER_SAVE, {"id": job_id, "state": state, "finished": finished, "now": 1.8e9})


def test_the_jobs_of_the_file_go_on(queue: SqliteQueue) -> None:
    assert {job.id: job.state for job in queue.find(JobFilter(tag="x"), 10)} == {
        SUCCEEDED: "succeeded",
        RUNNING: "running",
        QUEUED: "queued",
    }
    known = queue.recall("k")
    assert known is not None
    assert (known[1].id, known[1].request.owner, known[1].request.webhook) == (SUCCEEDED, "", None)
    assert queue.settle(Claim(queue.get(RUNNING), "w1"), DONE).state == "succeeded"
    claim = queue.take("w2", ("m",), PRIORITIES)
    assert claim is not None
    assert claim.job.id == QUEUED
    assert queue.notices() == queue.find(JobFilter(owner="k1"), 10) == []


def test_the_file_takes_jobs_of_owners_and_gives_notice_of_them(queue: SqliteQueue) -> None:
    job = queue.submit(request(owner="k1", webhook=HOOK), owner_video_s=10.0).job
    with pytest.raises(QueueFull):
        queue.submit(request(owner="k1"), owner_video_s=10.0)
    assert [found.id for found in queue.find(JobFilter(owner="k1", states=("queued",)), 10)] == [job.id]
    queue.cancel(job.id)
    assert queue.notices() == [job.id]


def test_the_earlier_release_goes_on_using_the_file(queue: SqliteQueue, earlier: sqlite3.Connection) -> None:
    new = new_id()
    earlier.execute(EARLIER_INSERT, {"id": new, "like": QUEUED})
    assert queue.get(new).request == queue.get(QUEUED).request
    rows = earlier.execute("SELECT * FROM jobs WHERE state = 'queued'").fetchall()
    assert {row["id"]: json.loads(row["request"])["model"] for row in rows} == {QUEUED: "m", new: "m"}
    end_by_the_earlier(earlier, new)
    assert queue.get(new).state == "succeeded"
    assert queue.notices() == []


def test_what_the_earlier_release_ends_is_noticed(queue: SqliteQueue, earlier: sqlite3.Connection) -> None:
    job = queue.submit(request(owner="k1", webhook=HOOK)).job
    end_by_the_earlier(earlier, job.id)
    assert queue.notices() == [job.id]
    queue.submit(request(owner="k1"), owner_video_s=10.0)
    earlier.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    assert queue.notices() == []


def test_records_are_kept_in_the_file(path: Path, earlier: sqlite3.Connection) -> None:
    records = SqliteRecords(path)
    made = records.create(Record("batch", "1"))
    records.close()
    again = SqliteRecords(path)
    assert again.get("batch", "1") == made
    again.close()


def test_the_file_comes_to_be_like_a_new_one_and_keeps_its_form(path: Path, tmp_path: Path) -> None:
    for _ in range(2):
        SqliteQueue(path, POLICY).close()
    SqliteQueue(tmp_path / "new", POLICY).close()

    def form(file: Path) -> list[tuple[str, ...]]:
        connection = sqlite3.connect(file)
        query = "SELECT type, name, replace(replace(sql, char(10), ''), ' ', '') FROM sqlite_master ORDER BY name"
        rows = connection.execute(query).fetchall()
        rows += connection.execute("PRAGMA user_version").fetchall()
        connection.close()
        return rows

    assert form(path) == form(tmp_path / "new")
    assert form(path)[-1] == (1,)
