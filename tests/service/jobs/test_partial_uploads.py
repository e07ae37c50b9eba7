"""Parts of an upload, in order or in races, over records of either kind and stores of either kind."""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from pathlib import Path

import pytest

from service.errors import MalformedRequest, OffsetMismatch, UploadNotFound
from service.jobs import partial_uploads
from service.jobs.artifacts import Artifact
from service.jobs.local_store import LocalStore
from service.jobs.partial_uploads import PartialUpload, PartialUploads
from service.jobs.records import Records
from service.jobs.s3_store import S3Store
from service.jobs.sqlite_records import SqliteRecords
from tests.service.jobs.harness import Harness
from tests.service.jobs.s3_server import BUCKET, S3Server


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def records(harness: Harness) -> Records:
    return harness.open_records()


@pytest.fixture
def uploads(records: Records, store: LocalStore, harness: Harness) -> PartialUploads:
    ahead_s = harness.now_s() - time.time()
    return PartialUploads(records, store, ahead_s + 60.0)


def part(uploads: PartialUploads, upload: PartialUpload, data: bytes) -> Artifact:
    with uploads.part(upload) as writer:
        writer.write(data)
        return writer.commit()


def parts_in(store: LocalStore) -> set[str]:
    return {path.name for path in (store.folder / "part").rglob("*-*") if path.is_file()}


def test_parts_become_the_whole_and_are_gone(uploads: PartialUploads, store: LocalStore) -> None:
    upload = uploads.begin("me", "a.mp4", 6, "")
    for data in (b"ab", b"cde", b"f"):
        upload = uploads.append(upload, part(uploads, upload, data))
    assert uploads.get(upload.id) == upload
    whole = uploads.assemble(upload)
    assert whole.video == hashlib.sha256(b"abcdef").hexdigest()
    assert store.path("video", whole.video).read_bytes() == b"abcdef"
    assert not parts_in(store)
    assert uploads.finish(whole).done
    assert uploads.get(upload.id).owner == "me"


def test_the_loser_of_a_race_is_told_and_takes_its_own_part_away(uploads: PartialUploads, store: LocalStore) -> None:
    upload = uploads.begin("", "a", 6, "")
    first, second = part(uploads, upload, b"abc"), part(uploads, upload, b"xy")
    winner = uploads.append(upload, first)
    with pytest.raises(OffsetMismatch, match="stands at 3 bytes, and the part begins at 0"):
        uploads.append(upload, second)
    assert parts_in(store) == {first.key}
    assert uploads.get(upload.id) == winner


def test_a_step_that_was_written_without_an_answer_is_no_race(uploads: PartialUploads) -> None:
    upload = uploads.begin("", "a", 6, "")
    first = part(uploads, upload, b"abc")
    written = uploads.append(upload, first)
    assert uploads.append(upload, first) == written


def test_of_two_that_put_the_whole_together_both_have_it(uploads: PartialUploads) -> None:
    upload = uploads.begin("", "a", 3, "")
    upload = uploads.append(upload, part(uploads, upload, b"abc"))
    assert uploads.assemble(upload) == uploads.assemble(upload)


def test_a_part_of_an_upload_that_was_ended_is_removed(uploads: PartialUploads, store: LocalStore) -> None:
    upload = uploads.begin("", "a", 6, "")
    late = part(uploads, upload, b"abc")
    uploads.drop(upload)
    with pytest.raises(UploadNotFound):
        uploads.append(upload, late)
    assert not parts_in(store)


def test_an_upload_in_too_many_parts_is_refused(uploads: PartialUploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_uploads, "MOST_PARTS", 2)
    upload = uploads.begin("", "a", 6, "")
    for data in (b"a", b"b"):
        upload = uploads.append(upload, part(uploads, upload, data))
    with pytest.raises(MalformedRequest, match="larger"):
        uploads.part(upload)


def test_those_parts_are_needed_that_a_record_lists(
    uploads: PartialUploads, records: Records, store: LocalStore
) -> None:
    upload = uploads.begin("", "a", 6, "")
    listed, orphan = part(uploads, upload, b"a"), part(uploads, upload, b"b")
    uploads.append(upload, listed)
    other = f"{'0' * 32}-0-00000000"
    assert partial_uploads.needed_parts(records, {listed.key, orphan.key, other}) == {listed.key}
    assert partial_uploads.needed_parts(records, ()) == set()


def test_fields_of_a_later_release_are_passed_over(uploads: PartialUploads, records: Records) -> None:
    upload = uploads.begin("", "a", 6, "")
    found = records.get(partial_uploads.KIND, upload.id)
    assert found is not None
    records.replace(type(found)(found.kind, found.id, {**found.body, "later": 1}, found.version))
    assert uploads.get(upload.id).length_bytes == 6


def test_parts_in_object_storage_become_the_whole_as_well(tmp_path: Path, s3_environment: S3Server) -> None:
    """As two processes, each with a cache of its own."""
    assert s3_environment
    with closing(SqliteRecords(tmp_path / "queue.db")) as one, closing(SqliteRecords(tmp_path / "queue.db")) as other:
        here, there = (
            PartialUploads(records, S3Store(BUCKET, "parts", tmp_path / name, 2**30, mark_lag_s=0), 60.0)
            for name, records in (("here", one), ("there", other))
        )
        _goes_together(here, there)


def _goes_together(here: PartialUploads, there: PartialUploads) -> None:
    upload = here.begin("", "a", 6, "")
    upload = here.append(upload, part(here, upload, b"abc"))
    upload = there.append(upload, part(there, there.get(upload.id), b"def"))
    assert here.assemble(upload).video == hashlib.sha256(b"abcdef").hexdigest()
    assert there.get(upload.id).parts == ()
