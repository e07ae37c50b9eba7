"""Uses, puts and removals of one artifact that overlap in every way: no use in time loses it.

The object storage is a fake whose clock goes on a second with each call; a schedule decides whose call is next.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from service.errors import ArtifactNotFound, Unavailable
from service.jobs import s3_removal
from service.jobs.s3_objects import Found
from service.jobs.s3_removal import EXECUTING, ORPHANED_S, PENDING, Names, Removal

CLIP = Names("video", "clip")
UNUSED_S, LAG_S, YEAR_S = 1000.0, 65.0, 3e7


class FakeObjects:
    def __init__(self, turn: Callable[[], None] = lambda: None) -> None:
        self.kept: dict[str, tuple[bytes, Found]] = {}
        self.now_s, self.call_s = YEAR_S, 1.0
        self.turn = turn
        self.calls: list[tuple[str, str]] = []
        self._written = 0

    def call(self, what: str, name: str) -> None:
        self.turn()
        self.now_s += self.call_s
        self.calls.append((what, name))

    def find(self, name):
        self.call("find", name)
        return self.kept[name][1] if name in self.kept else None

    def read(self, name):
        self.call("read", name)
        return self.kept.get(name)

    def write(self, name, data):
        self.call("write", name)
        return self._write(name, data)

    def create(self, name, data):
        self.call("create", name)
        return None if name in self.kept else self._write(name, data)

    def replace(self, name, data, version):
        self.call("replace", name)
        is_same = name in self.kept and self.kept[name][1].version == version
        return self._write(name, data) if is_same else None

    def delete(self, name):
        self.call("delete", name)
        self.kept.pop(name, None)

    def _write(self, name, data):
        self.kept[name] = (data, Found(len(data), str(hash(data)), self.now_s))  # equal bytes, equal version, as on S3
        return self.kept[name][1].version

    def age(self, *names, age_s=YEAR_S):
        for name in names:
            data, found = self.kept[name]
            self.kept[name] = (data, Found(found.size_bytes, found.version, self.now_s - age_s))


@pytest.fixture
def objects():
    kept = FakeObjects()
    kept.write(CLIP.data, b"pictures")
    kept.age(CLIP.data)
    return kept


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(s3_removal, "POLL_S", 0.0)


def used_before_s(objects):
    return objects.now_s - UNUSED_S - LAG_S


def remove(objects, in_use=lambda keys: set()):
    return Removal(objects).remove(CLIP, used_before_s(objects), in_use)


def test_an_old_artifact_is_removed_with_all_that_is_known_of_it(objects):
    Removal(objects).use(CLIP)
    objects.age(CLIP.mark)
    assert remove(objects)
    assert objects.kept == {}


def test_one_that_was_used_or_that_a_job_needs_stays(objects):
    assert not remove(objects, set)
    Removal(objects).use(CLIP)
    assert not remove(objects)
    objects.age(CLIP.mark, age_s=UNUSED_S + LAG_S - 20)
    assert not remove(objects)
    assert CLIP.data in objects.kept


def test_a_mark_is_written_once_a_minute(objects):
    removal = Removal(objects)
    for _ in range(5):
        removal.use(CLIP)
    assert objects.calls.count(("write", CLIP.mark)) == 1


def test_a_use_of_what_is_not_there_leaves_no_mark(objects):
    with pytest.raises(ArtifactNotFound):
        Removal(objects).use(Names("video", "guessed"))
    assert list(objects.kept) == [CLIP.data]


def test_a_use_withdraws_a_removal_that_is_only_pending(objects):
    version = Removal(objects)._begin(CLIP)
    Removal(objects).use(CLIP)
    assert objects.replace(CLIP.tombstone, EXECUTING, version) is None
    objects.age(CLIP.mark, CLIP.tombstone)
    assert remove(objects)  # a later one is none the worse for it


def test_a_removal_that_was_withdrawn_is_not_executed_when_another_has_begun(objects):
    """Storage often names equal bytes by an equal version."""
    late = Removal(objects)
    version = late._begin(CLIP)
    Removal(objects).use(CLIP)
    assert Removal(objects)._begin(CLIP) is not None
    assert not late._execute(CLIP, version)
    assert CLIP.data in objects.kept


def test_a_removal_of_a_dead_process_is_taken_up_after_a_while(objects):
    objects.write(CLIP.tombstone, PENDING)
    assert not remove(objects)
    objects.age(CLIP.tombstone, age_s=ORPHANED_S + 1)
    assert remove(objects)


def test_a_put_waits_for_an_execution_and_ends_one_of_a_dead_process(objects, monkeypatch):
    monkeypatch.setattr(s3_removal, "EXECUTE_S", 0.05)
    objects.call_s = 0.0
    objects.write(CLIP.tombstone, EXECUTING)
    with pytest.raises(ArtifactNotFound):
        Removal(objects).use(CLIP)
    with pytest.raises(Unavailable, match="being removed"):
        Removal(objects).await_end(CLIP)
    objects.age(CLIP.tombstone, age_s=ORPHANED_S + 1)
    Removal(objects).await_end(CLIP)
    assert CLIP.data not in objects.kept


def test_a_removal_that_was_halted_goes_on_with_nothing(objects, monkeypatch):
    monkeypatch.setattr(s3_removal, "EXECUTE_S", -1.0)
    assert not remove(objects)
    assert CLIP.data in objects.kept


class Schedule:
    """Lets one of several threads make its next call, as chance says, until all have ended."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: dict[str, threading.Event] = {}
        self._change = threading.Condition()
        self._expected = 0

    def turn(self) -> None:
        name = threading.current_thread().name
        if name == "MainThread":
            return
        mine = threading.Event()
        with self._change:
            self._waiting[name] = mine
            self._change.notify_all()
        mine.wait(20)

    def run(self, **tasks: Callable[[], None]) -> None:
        self._expected = len(tasks)
        threads = [threading.Thread(target=self._work, args=(task,), name=name) for name, task in tasks.items()]
        for thread in threads:
            thread.start()
        while True:
            with self._change:
                assert self._change.wait_for(lambda: len(self._waiting) == self._expected, 20)
                if not self._waiting:
                    break
                self._waiting.pop(self._random.choice(sorted(self._waiting))).set()
        for thread in threads:
            thread.join()

    def _work(self, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._change:
                self._expected -= 1
                self._change.notify_all()


def play(seed: int) -> tuple[bool, bool]:
    """Two users, a putter and two removers of one old artifact: (whether a user had it, whether it was removed)."""
    schedule = Schedule(seed)
    objects = FakeObjects(schedule.turn)
    objects.write(CLIP.data, b"pictures")
    objects.write(CLIP.mark, b"")
    objects.age(CLIP.data, CLIP.mark)
    jobs: set[str] = set()
    lost: list[str] = []
    had: list[str] = []
    removed: list[bool] = []

    def hold() -> None:
        had.append("it")
        if any(objects.find(CLIP.data) is None for _ in range(3)):
            lost.append("while it was used")
        jobs.add(CLIP.key)  # submitted; from now on only this protects it
        objects.kept.pop(CLIP.mark, None)
        if objects.find(CLIP.data) is None:
            lost.append("while a job needed it")

    def use() -> None:
        try:
            Removal(objects).use(CLIP)
        except ArtifactNotFound:
            return
        hold()

    def put() -> None:
        removal = Removal(objects)
        try:
            removal.use(CLIP)
        except ArtifactNotFound:
            removal.mark(CLIP)
            removal.await_end(CLIP)
            objects.write(CLIP.data, b"pictures")
            removal.mark(CLIP)
            removal.use(CLIP)
        hold()

    def sweep() -> None:
        removed.append(Removal(objects).remove(CLIP, YEAR_S - UNUSED_S, lambda keys: jobs & set(keys)))

    schedule.run(user=use, another=use, putter=put, sweeper=sweep, second=sweep)
    assert lost == [], (seed, objects.calls)
    assert objects.find(CLIP.data) is not None, (seed, objects.calls)
    return len(had) > 1, any(removed)


def test_however_they_overlap_no_use_in_time_loses_its_artifact():
    outcomes = {play(seed) for seed in range(120)}
    assert {(True, False), (False, True)} <= outcomes
