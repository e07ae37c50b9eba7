"""Queues under test: a backend's name goes in, a queue comes out with the means to let its time pass."""

from __future__ import annotations

import dataclasses
import importlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from service.jobs.job import PRIORITIES, Failure, JobRequest, StoredVideo
from service.jobs.queue import Claim, Failed, JobQueue, QueuePolicy, StoredResult, Succeeded
from service.jobs.records import Records
from service.jobs.sqlite_queue import SqliteQueue
from service.jobs.sqlite_records import SqliteRecords

LEASE_S = 1.0
POLICY = QueuePolicy(lease_s=LEASE_S, retry_delay_s=0.3, worker_silence_s=LEASE_S)

DONE = Succeeded(StoredResult(text='{"segments": []}'))
CRASH = Failed(Failure("worker_crashed", "the child died of signal 9", retryable=True))
BAD_VIDEO = Failed(Failure("corrupt_video", "nothing in it can be decoded"))


class MovableClock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.boot = "first boot"
        self.passed_s = 0.0
        self.slept_s = 0.0
        self._lock = threading.Lock()

    def steady_s(self) -> float:
        return 1000.0 + self.passed_s

    def wall_s(self) -> float:
        return 1_800_000_000.0 + self.passed_s

    def suspended_s(self) -> float:
        return self.slept_s

    def move(self, seconds: float) -> None:
        with self._lock:
            self.passed_s += seconds

    def suspend(self, seconds: float) -> None:
        """The machine stands still."""
        self.move(seconds)
        self.slept_s += seconds


class Harness(Protocol):
    backend: str

    def open(self, **policy: Any) -> JobQueue:
        """Another handle to the same jobs, under this policy."""

    def open_records(self) -> Records:
        """Another handle to the records beside the jobs."""

    def pass_time(self, seconds: float) -> None: ...

    def now_s(self) -> float: ...

    def fresh(self) -> Harness:
        """The same, without any jobs."""

    def opener(self) -> tuple[str, str, str]:
        """What `open_by` needs in another process."""

    def rewrite(self, job_id: str, field: str, text: str) -> None:
        """What a release to come may write as `request`, `progress` or `failure`."""


class SqliteHarness:
    backend = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = MovableClock()
        self.opened: list[JobQueue | Records] = []
        self._children: list[SqliteHarness] = []

    def open(self, **policy: Any) -> JobQueue:
        queue = SqliteQueue(self.folder / "jobs.sqlite", dataclasses.replace(POLICY, **policy), self.clock)
        self.opened.append(queue)
        return queue

    def open_records(self) -> SqliteRecords:
        self.opened.append(records := SqliteRecords(self.folder / "jobs.sqlite", self.clock))
        return records

    def pass_time(self, seconds: float) -> None:
        self.clock.move(seconds)

    def now_s(self) -> float:
        return self.clock.wall_s()

    def fresh(self) -> SqliteHarness:
        self._children.append(SqliteHarness(self.folder / f"again{len(self._children)}"))
        return self._children[-1]

    def opener(self) -> tuple[str, str, str]:
        return ("sqlite", str(self.folder / "jobs.sqlite"), "")

    def rewrite(self, job_id: str, field: str, text: str) -> None:
        with closing(sqlite3.connect(self.folder / "jobs.sqlite", isolation_level=None)) as db:
            db.execute(f"UPDATE jobs SET {field} = ? WHERE id = ?", (text, job_id))

    def close(self) -> None:
        for queue in self.opened:
            queue.close()
        for child in self._children:
            child.close()


class RedisHarness:
    """A namespace of a real server, whose time is that of the world."""

    backend = "redis"

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace
        self.opened: list[JobQueue | Records] = []
        self._asking: JobQueue | None = None
        self._children: list[RedisHarness] = []

    def open(self, **policy: Any) -> JobQueue:
        redis_queue = importlib.import_module("service.jobs.redis_queue")
        queue: JobQueue = redis_queue.RedisQueue(
            self.url, dataclasses.replace(POLICY, **policy), namespace=self.namespace
        )
        self.opened.append(queue)
        self._asking = self._asking or queue
        return queue

    def open_records(self) -> Records:
        shelf = importlib.import_module("service.jobs.redis_record_shelf")
        records: Records = shelf.RedisRecords(self.url, namespace=self.namespace)
        self.opened.append(records)
        return records

    def pass_time(self, seconds: float) -> None:
        """While a worker of other models asks for jobs: a server that nobody asks looks as if it were away."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if self._asking is not None:
                self._asking.take("passer-by", ("no such model",), PRIORITIES)
            time.sleep(min(left_s, LEASE_S / 5))

    def now_s(self) -> float:
        return time.time()

    def fresh(self) -> RedisHarness:
        self._children.append(RedisHarness(self.url, f"{self.namespace}-{len(self._children)}"))
        return self._children[-1]

    def opener(self) -> tuple[str, str, str]:
        return ("redis", self.url, self.namespace)

    def rewrite(self, job_id: str, field: str, text: str) -> None:
        with importlib.import_module("redis").Redis.from_url(self.url) as client:
            client.hset(f"{{{self.namespace}}}:job:{job_id}", field, text)

    def close(self) -> None:
        for queue in self.opened:
            queue.close()
        for child in self._children:
            child.close()


def open_by(opener: tuple[str, str, str]) -> JobQueue:
    """In another process: a queue of the system's own time."""
    backend, place, namespace = opener
    policy = dataclasses.replace(POLICY, lease_s=60.0)
    if backend == "sqlite":
        return SqliteQueue(Path(place), policy)
    queue: JobQueue = importlib.import_module("service.jobs.redis_queue").RedisQueue(place, policy, namespace=namespace)
    return queue


def request(**changes: Any) -> JobRequest:
    video = StoredVideo(key="ab" * 32, name="run.mp4", size_bytes=1000, duration_s=changes.pop("video_s", 10.0))
    return JobRequest(**{"video": video, "model": "m", **changes})


def take(queue: JobQueue, worker: str = "w1", models: tuple[str, ...] = ("m",)) -> Claim:
    claim = queue.take(worker, models, PRIORITIES)
    assert claim is not None, "there was nothing to take"
    return claim


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    give_up_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < give_up_s, "it did not come about"
        time.sleep(0.01)
    return answer


@contextmanager
def at_once(threads: list[threading.Thread]) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
