"""Queues that stand in any state in; who is let in, and how long others are asked to stay away, out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from service.api import admission
from service.api.admission import Admission
from service.errors import QueueFull, StorageFull, VideoTooLong
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import Job, JobRequest, StoredVideo
from service.jobs.queue import JobQueue, QueuePolicy, QueueStats, WorkerRecord


@dataclass
class Queue:
    """What admission asks of a queue, and nothing else."""

    video_s: float = 0.0
    jobs: int = 0
    ready: int = 1
    took_s: float | None = None
    policy: QueuePolicy = field(default_factory=lambda: QueuePolicy(max_queued_jobs=10, max_queued_video_s=1000.0))
    looks: int = 0

    def stats(self) -> QueueStats:
        self.looks += 1
        return QueueStats({"normal": self.jobs}, {}, 0, self.video_s, 0)

    def workers(self) -> list[WorkerRecord]:
        one = WorkerRecord("w", "h", 1, 0.0, True, {}, ("normal",))
        return [one] * self.ready + [replace(one, ready=False)]

    def find(self, *_: Any) -> list[Job]:
        if self.took_s is None:
            return []
        done = Job("a" * 32, asking(10.0), "succeeded", 0.0, 0.0, started_at_s=5.0, finished_at_s=5.0 + self.took_s)
        return [done, done]

    def recall(self, key: str) -> Any:
        return ("print", None) if key == "known" else None


@dataclass
class Store:
    free: int = 100

    def free_bytes(self) -> int:
        return self.free


def asking(duration_s: float) -> JobRequest:
    return JobRequest(StoredVideo("a" * 64, "a", 1, duration_s), "m")


def admitting(queue: Queue, store: Store | None = None) -> Admission:
    return Admission(cast("JobQueue", queue), cast("ArtifactStore", store or Store()), 50)


@pytest.mark.parametrize(
    ("queue", "pause_s"),
    [
        (Queue(), 1),
        (Queue(video_s=60, jobs=3), 60),  # before any job has told how long it takes
        (Queue(video_s=60, jobs=3, took_s=5.0), 30),
        (Queue(video_s=60, jobs=3, took_s=5.0, ready=3), 10),
        (Queue(video_s=60, jobs=3, took_s=5.0, ready=0), 30),
        (Queue(video_s=999, jobs=9, took_s=50.0), 120),
        (Queue(video_s=1, jobs=1, took_s=0.1), 1),
    ],
)
def test_the_pause_is_about_as_long_as_what_waits_takes(queue: Queue, pause_s: int) -> None:
    looking = admitting(queue)
    looking.check()
    assert looking.pause_s == pause_s


@pytest.mark.parametrize("queue", [Queue(jobs=10, video_s=1), Queue(jobs=1, video_s=1000)])
def test_a_full_queue_lets_in_who_only_asks_again(queue: Queue) -> None:
    looking = admitting(queue)
    with pytest.raises(QueueFull):
        looking.check()
    with pytest.raises(QueueFull):
        looking.check("new")
    looking.check("known")


def test_little_disk_lets_nobody_in() -> None:
    with pytest.raises(StorageFull, match="49"):
        admitting(Queue(), Store(49)).check("known")


def test_a_crowd_is_one_look_at_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, now_s = Queue(), [100.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now_s[0])
    looking = admitting(queue)
    for _ in range(100):
        looking.check()
    assert queue.looks == 1
    now_s[0] += admission.FRESH_S
    looking.check()
    assert queue.looks == 2


def test_a_queue_that_was_full_is_looked_at_again_before_anybody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, now_s = Queue(jobs=10), [100.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now_s[0])
    looking = admitting(queue)
    with pytest.raises(QueueFull):
        looking.check()
    queue.jobs = 9
    now_s[0] += 2 * admission.FULL_FRESH_S
    looking.check()


def test_more_video_than_may_ever_wait_is_too_long() -> None:
    admitting(Queue()).check_length(asking(1000.0))
    with pytest.raises(VideoTooLong, match="1001"):
        admitting(Queue()).check_length(asking(1001.0))
