"""A queue and a store in; Prometheus gauges of them out, read at each scrape and so never stale."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.errors import QueueUnavailable
from service.jobs.artifacts import ArtifactStore
from service.jobs.queue import JobQueue, QueueStats, WorkerRecord

log = logging.getLogger(__name__)


class QueueGauges(Collector):
    """Of a queue that does not answer there is `tal_queue_up 0` and nothing else: a scrape never fails over it."""

    def __init__(self, queue: JobQueue, store: ArtifactStore) -> None:
        self._queue, self._store = queue, store

    def describe(self) -> list[GaugeMetricFamily]:
        """Spares a registration the question of what there is, which would wait for the queue."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            stats, workers = self._queue.stats(), self._queue.workers()
            found = [*_of_jobs(stats), *_of_workers(workers)]
        except Exception as error:
            if not isinstance(error, QueueUnavailable):
                log.exception("the queue's gauges cannot be read")
            yield _gauge("tal_queue_up", "Whether the job queue answers.", 0)
            return
        yield _gauge("tal_queue_up", "Whether the job queue answers.", 1)
        yield from found
        yield from self._of_store()

    def _of_store(self) -> Iterator[GaugeMetricFamily]:
        try:
            free_bytes = self._store.free_bytes()
        except OSError:
            return
        yield _gauge("tal_store_free_bytes", "Room left in the artifact store.", free_bytes)


def _of_jobs(stats: QueueStats) -> Iterator[GaugeMetricFamily]:
    depth = GaugeMetricFamily("tal_queue_depth", "Jobs that wait.", labels=["priority"])
    oldest = GaugeMetricFamily("tal_queue_oldest_age_seconds", "How long the oldest has waited.", labels=["priority"])
    for priority, jobs in stats.queued.items():
        depth.add_metric([priority], jobs)
    for priority, age_s in stats.oldest_s.items():
        oldest.add_metric([priority], age_s)
    yield depth
    yield oldest
    yield _gauge("tal_jobs_running", "Jobs that a worker holds.", stats.running)
    yield _gauge("tal_queued_video_seconds", "Seconds of video that wait.", stats.queued_video_s)
    yield _gauge("tal_dead_letters", "Jobs put aside after their last attempt.", stats.dead_letters)


def _of_workers(workers: Sequence[WorkerRecord]) -> Iterator[GaugeMetricFamily]:
    """Workers come and go under ever new ids, so none is named: of their silence the longest is told."""
    states = GaugeMetricFamily("tal_workers", "Workers that live.", labels=["state"])
    ready = sum(worker.ready for worker in workers)
    states.add_metric(["ready"], ready)
    states.add_metric(["starting"], len(workers) - ready)
    yield states
    if workers:
        silence_s = max(0.0, time.time() - min(worker.beat_at_s for worker in workers))
        yield _gauge("tal_worker_last_heartbeat_seconds", "Longest silence of a worker that lives.", silence_s)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
