"""A queue and a store in; whether another job would be accepted now, and how long to stay away if not, out."""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.errors import QueueFull, StorageFull, VideoTooLong
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import JobRequest, State
from service.jobs.queue import JobFilter, JobQueue

FRESH_S = 0.5
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1, 120
RECENT_JOBS = 20
SUCCEEDED: tuple[State, ...] = ("succeeded",)
# Seconds of work per second of video, before any job has told.
GUESSED_FACTOR = 1.0


@dataclass(frozen=True)
class Load:
    """How much waits; `pause_s` is about how long that takes."""

    at_s: float
    jobs: int = 0
    video_s: float = 0.0
    pause_s: int = 5


class Admission:
    """Looked at before a body is read, so that nobody uploads for nothing; `submit` then decides."""

    def __init__(self, queue: JobQueue, store: ArtifactStore, min_free_bytes: int) -> None:
        self._queue, self._store, self._min_free_bytes = queue, store, min_free_bytes
        self._load = Load(-FRESH_S)

    @property
    def pause_s(self) -> int:
        """As last estimated: it is told also while the queue does not answer."""
        return self._load.pause_s

    def check(self, key: str | None = None) -> None:
        """Raises QueueFull or StorageFull; who only asks again, under a key, is not kept out by a full queue."""
        if (free_bytes := self._store.free_bytes()) < self._min_free_bytes:
            raise StorageFull(f"{free_bytes} bytes are free in the artifact store; {self._min_free_bytes} are needed")
        if time.monotonic() - self._load.at_s >= FRESH_S:
            self.look()
        load, policy = self._load, self._queue.policy
        full = load.jobs >= policy.max_queued_jobs or load.video_s >= policy.max_queued_video_s
        if full and not (key and self._queue.recall(key)):
            raise QueueFull(
                f"{load.jobs} jobs with {load.video_s:.0f} s of video wait already; at most {policy.max_queued_jobs} "
                f"with {policy.max_queued_video_s:.0f} s may"
            )

    def check_length(self, request: JobRequest) -> None:
        """What no empty queue would take is too long, not too early."""
        if request.video_s > self._queue.policy.max_queued_video_s:
            raise VideoTooLong(
                f"{request.video_s:.0f} s of video are asked for; "
                f"accepted are up to {self._queue.policy.max_queued_video_s:.0f} s"
            )

    def look(self) -> None:
        stats = self._queue.stats()
        jobs = sum(stats.queued.values())
        self._load = Load(time.monotonic(), jobs, stats.queued_video_s, self._pause_s(stats.queued_video_s))

    def _pause_s(self, queued_video_s: float) -> int:
        if queued_video_s == 0:
            return SHORTEST_PAUSE_S
        workers = sum(worker.ready for worker in self._queue.workers())
        pause_s = queued_video_s * self._realtime_factor() / max(1, workers)
        return round(min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, pause_s)))

    def _realtime_factor(self) -> float:
        """Of the jobs that succeeded last."""
        done = self._queue.find(JobFilter(states=SUCCEEDED), RECENT_JOBS)
        took_s = sum((job.finished_at_s or 0.0) - (job.started_at_s or 0.0) for job in done)
        video_s = sum(job.request.video_s for job in done)
        return took_s / video_s if video_s > 0 else GUESSED_FACTOR
