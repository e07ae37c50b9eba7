"""The store in a folder: its files, a full disk, what dead processes left, and removal against use."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from service.errors import ArtifactNotFound, StorageFull, StoreMismatch
from service.jobs.local_store import LocalStore


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def incoming(store):
    return list((store.folder / "incoming").iterdir())


def test_all_who_open_a_folder_first_agree_on_its_id(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: LocalStore(tmp_path / "s").id, range(64)))) == 1


def test_a_store_of_a_later_version_is_refused(store):
    (store.folder / "store.json").write_text('{"id": "x", "version": 2}')
    with pytest.raises(StoreMismatch, match="version 2"):
        LocalStore(store.folder)


def test_only_the_owner_reads_what_is_stored(store):
    file = store.path("video", store.put("video", b"x").key)
    assert file.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (store.folder, file.parent, file.parent.parent)} == {0o700}


def test_too_little_room_refuses_videos_but_no_results(tmp_path):
    store = LocalStore(tmp_path, min_free_bytes=2**62)
    with pytest.raises(StorageFull, match="are free"):
        store.writer("video")
    store.put("result", b"{}")
    assert incoming(store) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_told_and_leaves_nothing(store):
    with store.writer("result") as writer:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writer._descriptor)
        os.close(full)
        with pytest.raises(StorageFull, match="no room"):
            writer.write(b"x")
    assert incoming(store) == []


def test_what_a_dead_process_left_is_swept_and_a_slow_upload_is_not(store):
    left = store.folder / "incoming" / "left"
    left.write_bytes(b"half")
    with store.writer("video") as writer:
        writer.write(b"slow")
        assert store.sweep("video", 60, lambda keys: set()) == 0
        for file in incoming(store):
            os.utime(file, (0, 0))
        assert store.sweep("video", 60, lambda keys: set()) == 1
        assert store.path("video", writer.commit().key).read_bytes() == b"slow"
    assert not left.exists()


def test_no_artifact_that_a_job_refers_to_is_ever_lost(store):
    """Submitters touch an old artifact and then submit, while sweepers remove all that is old and not referred to."""
    jobs, lost, done = set(), [], threading.Event()

    def sweep():
        while not done.is_set():
            store.sweep("video", 60, lambda keys: set(keys) & set(jobs))

    def submit(name):
        for _ in range(200):
            key = store.put("video", name).key
            try:
                os.utime(store.folder / "video" / key[:2] / key[2:4] / key, (0, 0))
                store.touch("video", key)
            except (FileNotFoundError, ArtifactNotFound):
                continue
            jobs.add(key)
            try:
                store.path("video", key)
            except ArtifactNotFound:
                lost.append(key)
            jobs.discard(key)

    with ThreadPoolExecutor(6) as pool:
        sweepers = [pool.submit(sweep) for _ in range(2)]
        for submitter in [pool.submit(submit, b"%d" % number) for number in range(4)]:
            submitter.result()
        done.set()
        for sweeper in sweepers:
            sweeper.result()
    assert lost == []


def test_a_use_while_a_removal_is_decided_waits_for_it_and_is_told(store):
    key, uses = store.put("video", b"x").key, []

    def use_meanwhile(keys):
        uses.append(pool.submit(store.touch, "video", key) if uses else None)
        if uses[-1]:
            wait(uses[-1:], timeout=0.2)
        return set()

    with ThreadPoolExecutor(1) as pool:
        assert store.sweep("video", -1, use_meanwhile) == 1
        with pytest.raises(ArtifactNotFound):
            uses[1].result(10)


def test_a_use_after_the_first_look_keeps_the_artifact(store):
    key = store.put("video", b"x").key
    os.utime(store.path("video", key), (0, 0))

    def use_meanwhile(keys):
        store.touch("video", key)
        return set()

    assert store.sweep("video", 60, use_meanwhile) == 0
    store.touch("video", key)
