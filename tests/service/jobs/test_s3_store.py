"""The store on object storage: several machines, what is left behind, and a storage that refuses or does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from service.errors import ArtifactNotFound, DeploymentError, StorageFull, StoreMismatch, Unavailable
from service.jobs import s3_objects
from service.jobs.local_store import LocalStore
from service.jobs.s3_objects import PART_BYTES, Objects
from service.jobs.s3_store import S3Store
from service.jobs.stores import StoreAddress, open_store
from tests.service.jobs.relay import Relay
from tests.service.jobs.s3_server import BUCKET, S3Server

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("s3_environment")


@pytest.fixture
def prefix():
    return f"some/{secrets.token_hex(6)}"


@pytest.fixture
def machine(tmp_path, prefix):
    """Stores with a cache of their own."""

    def make(name="one", **options):
        return S3Store(BUCKET, prefix, tmp_path / name, 2**30, **options)

    return make


@pytest.fixture
def objects(prefix):
    return Objects(BUCKET, prefix)


@pytest.fixture
def storage(s3_server, monkeypatch):
    """The way to the server, which a test may close."""
    with Relay(s3_server.port) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        yield relay


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr(s3_objects, "SMALL", {"connect_timeout": "500ms", "timeout": "500ms"})
    monkeypatch.setattr(s3_objects, "SMALL_RETRIES", 1)


def names(objects):
    return {name for folder in ("video", "features", "used", "doomed") for name, _ in objects.list(folder)}


def local_files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def nobody(keys):
    return set()


def test_all_who_open_a_prefix_first_agree_on_its_id(machine):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda number: machine(str(number)).id, range(16)))) == 1


def test_a_store_of_a_later_version_is_refused(machine, objects):
    objects.write("store.json", b'{"id": "x", "version": 2}')
    with pytest.raises(StoreMismatch, match="version 2"):
        _ = machine().id


def test_what_one_machine_puts_another_reads_touches_and_deletes(machine):
    one, two = machine("one"), machine("two")
    key = one.put("video", b"abc").key
    two.touch("video", key)
    assert two.path("video", key).read_bytes() == b"abc"
    one.put("features", b"old", "f")
    assert two.path("features", "f").read_bytes() == b"old"
    one.put("features", b"new", "f")
    assert two.path("features", "f").read_bytes() == b"new"
    two.delete("video", key)
    with pytest.raises(ArtifactNotFound):
        one.path("video", key)


def test_a_large_file_goes_up_in_parts_and_comes_down_whole(machine, tmp_path):
    block = os.urandom(1024 * 1024)
    with machine("one").writer("video") as writer:
        for _ in range(PART_BYTES // len(block) + 2):
            writer.write(block)
        artifact = writer.commit()
    path = machine("two").path("video", artifact.key)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact.key
    assert len(local_files(tmp_path / "two")) == 1


def test_what_was_put_or_read_once_is_not_downloaded_again(machine, monkeypatch):
    one, two = machine("one"), machine("two")
    key = one.put("video", b"abc").key
    two.path("video", key)
    monkeypatch.setattr(Objects, "download", None)
    for store in (one, two):
        assert store.path("video", key).read_bytes() == b"abc"


def test_a_writer_without_commit_leaves_nothing_anywhere(machine, objects, tmp_path):
    with machine().writer("video") as writer:
        writer.write(b"abc")
        assert len(local_files(tmp_path / "one")) == 1
    assert local_files(tmp_path / "one") == []
    assert names(objects) == set()


def test_a_writer_keeps_what_is_computed_under_the_key_given(machine, objects):
    with machine().writer("features", key="some.key") as writer:
        writer.write(b"abc")
        assert writer.commit().key == "some.key"
    assert "some.key" in names(objects)
    with pytest.raises(ArtifactNotFound):
        machine().writer("features", key="../key")


def test_a_sweep_leaves_no_mark_or_tombstone(machine, objects):
    store = machine(mark_lag_s=0)
    for number in range(3):
        store.put("video", b"%d" % number)
    objects.write(f"used/video/{'0' * 64}", b"")
    assert store.sweep("video", -1, nobody) == 3
    assert names(objects) == set()


def test_files_that_a_dead_process_left_are_swept(machine, tmp_path):
    store = machine()
    left = store.new_file()
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    with store.writer("video") as writer:
        assert store.sweep("video", 60, nobody) == 1
        writer.commit()
    assert not left.exists()


def test_too_little_room_refuses_videos_but_no_results(machine):
    store = machine(min_free_bytes=2**62)
    with pytest.raises(StorageFull, match="are free"):
        store.writer("video")
    assert store.path("result", store.put("result", b"{}").key).read_bytes() == b"{}"


def test_a_bucket_that_is_not_there_ends_the_start(tmp_path):
    with pytest.raises(DeploymentError, match="there is no bucket 'another'"):
        _ = S3Store("another", "", tmp_path, 1).id


def test_wrong_credentials_end_the_start_and_are_not_told(tmp_path, monkeypatch):
    with S3Server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(DeploymentError) as told:
            _ = S3Store(BUCKET, "", tmp_path, 1).id
    assert BUCKET in str(told.value)
    assert server.url in str(told.value)
    assert server.environment["AWS_SECRET_ACCESS_KEY"] not in str(told.value)


def test_storage_without_conditional_writes_is_refused(machine, monkeypatch):
    monkeypatch.setattr(Objects, "create", lambda *_: "overwritten")
    with pytest.raises(DeploymentError, match="If-None-Match"):
        _ = machine().id


def test_a_storage_that_is_gone_is_unavailable_and_leaves_no_local_file(storage, machine, tmp_path, short_waits):
    store = machine()
    key = store.put("video", b"abc").key
    storage.go_away()
    for call in (store.path, store.touch, store.delete):
        with pytest.raises(Unavailable, match=r"bucket 'artifacts' at http.* does not answer"):
            call("video", key)
    with pytest.raises(Unavailable):
        store.put("video", b"abcd")
    with pytest.raises(Unavailable):
        store.sweep("video", 60, nobody)
    with pytest.raises(Unavailable):
        store.ping()
    with pytest.raises(Unavailable):
        _ = machine("new").id
    assert len(local_files(tmp_path / "one")) == 1
    storage.come_back()
    store.touch("video", key)


def test_a_storage_that_hangs_keeps_nobody_for_long(s3_server, machine, short_waits):
    store = machine()
    key = store.put("video", b"abc").key
    s3_server.pause()
    began_s = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            store.touch("video", key)
    finally:
        s3_server.resume()
    assert time.monotonic() - began_s < 5
    store.touch("video", key)


def test_an_address_survives_a_message_and_opens_the_same_store_in_another_process(s3_server, prefix, tmp_path):
    address = StoreAddress(f"s3://{BUCKET}/{prefix}/", 0, str(tmp_path / "there"), 1000)
    code = (
        "import json, sys; from service.jobs.stores import StoreAddress, open_store; "
        "print(open_store(StoreAddress(**json.loads(sys.argv[1]))).id)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asdict(address))], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == open_store(address).id
    assert isinstance(open_store(StoreAddress(str(tmp_path / "folder"))), LocalStore)
