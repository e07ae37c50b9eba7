"""Housekeeping: the unused goes, the needed stays, and a queue that does not answer ends nothing."""

from __future__ import annotations

import threading

import pytest

from service.errors import QueueUnavailable
from service.jobs.artifacts import KINDS
from service.jobs.janitor import Janitor, Retention
from service.jobs.local_store import LocalStore
from service.jobs.records import Record
from service.jobs.sqlite_records import SqliteRecords
from tests.service.jobs.harness import MovableClock


class Queue:
    def __init__(self, needed=(), down=False):
        self.needed, self.down, self.sweeps = set(needed), down, 0

    def sweep(self):
        self.sweeps += 1
        if self.down:
            raise QueueUnavailable("no answer")

    def references(self, keys):
        if self.down:
            raise QueueUnavailable("no answer")
        return self.needed & set(keys)


class Records:
    def __init__(self, down=False):
        self.down, self.sweeps = down, 0

    def sweep(self):
        self.sweeps += 1
        if self.down:
            raise QueueUnavailable("no records")
        return 0


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def kept(store):
    return {file.name for kind in ("video", "result", "features") for file in store.folder.glob(f"{kind}/*/*/*")}


def test_each_kind_has_its_own_time_and_what_jobs_need_stays(store):
    video, needed, result = store.put("video", b"v").key, store.put("video", b"n").key, store.put("result", b"r").key
    Janitor(Queue([needed]), store, Records(), Retention(uploads_s=-1, results_s=60, features_s=60)).run_once()
    assert kept(store) == {needed, result}
    assert video not in kept(store)


def test_nothing_is_removed_while_the_queue_does_not_answer(store, caplog):
    key = store.put("video", b"v").key
    Janitor(Queue(down=True), store, Records(), Retention(-1, -1, -1)).run_once()
    assert kept(store) == {key}
    assert "no answer" in caplog.text


@pytest.mark.parametrize(("queue_down", "records_down"), [(True, False), (False, True), (True, True)])
def test_queue_and_records_are_swept_whatever_became_of_the_other(store, caplog, queue_down, records_down):
    queue, records = Queue(down=queue_down), Records(down=records_down)
    Janitor(queue, store, records, Retention()).run_once()
    assert (queue.sweeps, records.sweeps) == (1, 1)
    assert ("housekeeping of the queue failed: no answer" in caplog.text) == queue_down
    assert ("housekeeping of the records failed: no records" in caplog.text) == records_down


def test_expired_records_are_removed(store, tmp_path):
    clock = MovableClock()
    records = SqliteRecords(tmp_path / "q", clock)
    records.create(Record("upload", "1", expires_at_s=clock.wall_s() + 1))
    clock.move(2)
    Janitor(Queue(), store, records, Retention()).run_once()
    assert records.sweep() == 0
    records.close()


def test_a_defect_is_told_with_its_trace_and_ends_no_janitor(store, caplog):
    class Defective(Queue):
        def sweep(self):
            super().sweep()
            raise LookupError("a defect")

        references = None

    store.put("video", b"v")
    queue, stop = Defective(), threading.Event()
    thread = threading.Thread(
        target=Janitor(queue, store, Records(), Retention(-1, -1, -1)).run_forever, args=(stop, 0.001)
    )
    thread.start()
    while queue.sweeps < 3:
        stop.wait(0.001)
    stop.set()
    thread.join(10)
    assert "housekeeping of the queue failed: a defect" in caplog.text
    assert "housekeeping of the store (video) failed: 'NoneType' object" in caplog.text
    assert "Traceback" in caplog.text


def test_a_store_that_takes_long_to_look_through_is_given_rest(store):
    class Slow(type(store)):
        looks = 0

        def sweep(self, *_):
            self.looks += 1
            stop.wait(0.05)
            return 0

    queue, stop, slow = Queue(), threading.Event(), Slow(store.folder, 0)
    thread = threading.Thread(target=Janitor(queue, slow, Records(), Retention()).run_forever, args=(stop, 0.001))
    thread.start()
    while queue.sweeps < 20:
        stop.wait(0.001)
    stop.set()
    thread.join(10)
    assert slow.looks == len(KINDS)


def test_it_runs_until_it_is_stopped(store):
    queue, stop = Queue(), threading.Event()
    thread = threading.Thread(target=Janitor(queue, store, Records(), Retention()).run_forever, args=(stop, 0.001))
    thread.start()
    while queue.sweeps < 3:
        stop.wait(0.001)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
