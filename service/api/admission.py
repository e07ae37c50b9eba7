"""A queue and a store in; whether another job would be accepted now, and how long to stay away if not, out."""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.errors import QueueFull, StorageFull, VideoTooLong
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import JobRequest, State
from service.jobs.queue import JobFilter, JobQueue

FRESH_S, FULL_FRESH_S = 0.5, 0.05  # a refusal rests on a newer look than an acceptance
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
        self._look_if_older(FRESH_S)
        if self._full:
            self._look_if_older(FULL_FRESH_S)
        load, policy = self._load, self._queue.policy
        if self._full and not (key and self._queue.recall(key)):
            raise QueueFull(
                f"{load.jobs} jobs with {load.video_s:.0f} s of video wait already; at most {policy.max_queued_jobs} "
                f"with {policy.max_queued_video_s:.0f} s may"
            )

    @property
    def _full(self) -> bool:
        load, policy = self._load, self._queue.policy
        return load.jobs >= policy.max_queued_jobs or load.video_s >= policy.max_queued_video_s

    def _look_if_older(self, age_s: float) -> None:
        if time.monotonic() - self._load.at_s >= age_s:
            self.look()

    def check_length(self, request: JobRequest, owner_video_s: float | None = None) -> None:
        """What no empty queue would take is too long, not too early."""
        most_s = self._queue.policy.max_queued_video_s
        if owner_video_s is not None:
            most_s = min(most_s, owner_video_s)
        if request.video_s > most_s:
            raise VideoTooLong(f"{request.video_s:.0f} s of video are asked for; accepted are up to {most_s:.0f} s")

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
