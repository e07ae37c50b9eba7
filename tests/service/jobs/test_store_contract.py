"""What every artifact store promises, asked of each of them."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from service.errors import ArtifactNotFound, VideoTooLarge
from service.jobs.local_store import LocalStore
from service.jobs.s3_store import S3Store
from tests.service.jobs.s3_server import BUCKET


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    request.getfixturevalue("s3_environment")
    return S3Store(BUCKET, secrets.token_hex(6), tmp_path / "cache", 2**30, mark_lag_s=0)


def nobody(keys):
    return set()


def test_parts_become_one_artifact_under_their_sha256(store):
    with store.writer("video") as writer:
        writer.write(b"ab")
        writer.write(b"c")
        artifact = writer.commit()
    assert (artifact.key, artifact.size_bytes) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert store.path("video", artifact.key).read_bytes() == b"abc"


def test_the_same_bytes_twice_are_one_artifact(store):
    assert store.put("video", b"abc") == store.put("video", b"abc")
    assert store.sweep("video", -1, nobody) == 1


def test_what_is_not_committed_is_not_there(store):
    with store.writer("video") as writer:
        writer.write(b"abc")
    with pytest.raises(ArtifactNotFound):
        store.path("video", hashlib.sha256(b"abc").hexdigest())


def test_one_byte_more_than_the_limit_is_too_large(store):
    with store.writer("video", max_bytes=3) as writer:
        writer.write(b"abc")
        with pytest.raises(VideoTooLarge, match="at most 3"):
            writer.write(b"d")


def test_what_is_computed_is_put_under_its_key_and_replaced(store):
    store.put("features", b"old", "clip.v1")
    store.put("features", b"new", "clip.v1")
    assert store.path("features", "clip.v1").read_bytes() == b"new"


@pytest.mark.parametrize("key", ["../../etc/passwd", "", ".", "..", "a/b", "A" * 64, "a" * 129, "a\n"])
def test_a_key_is_never_a_path(store, key):
    for use in (store.path, store.touch, store.delete):
        with pytest.raises(ArtifactNotFound):
            use("video", key)
    with pytest.raises(ArtifactNotFound):
        store.put("features", b"x", key)


def test_kinds_are_apart_and_the_deleted_is_gone(store):
    key = store.put("video", b"abc").key
    with pytest.raises(ArtifactNotFound):
        store.touch("result", key)
    store.delete("video", key)
    for use in (store.path, store.touch, store.delete):
        with pytest.raises(ArtifactNotFound):
            use("video", key)


def test_a_sweep_removes_the_unused_that_nobody_needs(store):
    needed, unused = store.put("video", b"needed").key, store.put("video", b"unused").key
    assert store.sweep("video", 60, nobody) == 0
    assert store.sweep("video", -1, lambda keys: {needed} & set(keys)) == 1
    store.touch("video", needed)
    with pytest.raises(ArtifactNotFound):
        store.touch("video", unused)


def test_a_store_is_known_by_its_id(store):
    assert len(store.id) == 32
    assert store.id == store.id
    assert store.free_bytes() > 0
