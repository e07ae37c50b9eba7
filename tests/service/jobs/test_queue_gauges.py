"""Gauges of a queue at a scrape, and of one that does not answer."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, generate_latest

from service.errors import QueueUnavailable
from service.jobs.local_store import LocalStore
from service.jobs.queue import QueueStats, WorkerRecord
from service.jobs.queue_gauges import QueueGauges


class Queue:
    def stats(self):
        return QueueStats({"high": 2, "normal": 0}, {"high": 7.5}, 1, 90.0, 3)

    def workers(self):
        beat = time.time() - 5
        return [WorkerRecord(str(n), "host", n, 0.0, n > 0, {}, (), beat_at_s=beat) for n in range(3)]


class Silent(Queue):
    def stats(self):
        raise QueueUnavailable("no answer")


class Defective(Queue):
    def workers(self):
        return [None]


def scrape(queue, folder):
    registry = CollectorRegistry()
    registry.register(QueueGauges(queue, LocalStore(folder)))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_scrape_tells_what_waits_and_who_works(tmp_path):
    found = scrape(Queue(), tmp_path)
    assert found['tal_queue_depth{priority="high"}'] == 2
    assert found['tal_queue_oldest_age_seconds{priority="high"}'] == 7.5
    assert (found["tal_jobs_running"], found["tal_queued_video_seconds"], found["tal_dead_letters"]) == (1, 90, 3)
    assert (found['tal_workers{state="ready"}'], found['tal_workers{state="starting"}']) == (2, 1)
    assert 5 <= found["tal_worker_last_heartbeat_seconds"] < 60
    assert found["tal_store_free_bytes"] > 0


def test_a_queue_that_does_not_answer_is_down_and_the_scrape_succeeds(tmp_path):
    assert scrape(Silent(), tmp_path) == {"tal_queue_up": 0}


def test_a_defect_fails_no_scrape_and_is_told_with_its_trace(tmp_path, caplog):
    assert scrape(Defective(), tmp_path) == {"tal_queue_up": 0}
    assert "Traceback" in caplog.text
