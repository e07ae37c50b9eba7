"""Parts of a video in, over any number of requests and processes; the whole of it in the store out.

What came of an upload lies in the store as parts, and its record lists them. A part counts once the record does: of two
that begin at one offset the record takes one. What a crash leaves behind is either listed, and the upload goes on with
it, or not, and the janitor removes it.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from service.errors import ArtifactNotFound, MalformedRequest, OffsetMismatch, UploadNotFound
from service.jobs.artifacts import Artifact, ArtifactStore, ArtifactWriter
from service.jobs.job import known_fields
from service.jobs.records import Record, Records

KIND = "upload"
BLOCK_BYTES = 1024 * 1024
# Each step writes the list of them anew.
MOST_PARTS = 10_000


@dataclass(frozen=True)
class PartialUpload:
    """An upload as it stands; `video` is the key of the whole once that is stored, and then no parts are left.

    `done` says that the whole was looked at, too. `metadata` is the client's own, as it was given.
    """

    id: str
    owner: str
    name: str
    length_bytes: int
    metadata: str = ""
    offset_bytes: int = 0
    parts: tuple[str, ...] = ()
    video: str | None = None
    done: bool = False
    expires_at_s: float = 0.0
    version: int = 0

    @property
    def left_bytes(self) -> int:
        return self.length_bytes - self.offset_bytes


class PartialUploads:
    """Every upload is kept for `keep_s` after its last step."""

    def __init__(self, records: Records, store: ArtifactStore, keep_s: float) -> None:
        self._records, self._store, self._keep_s = records, store, keep_s

    def begin(self, owner: str, name: str, length_bytes: int, metadata: str) -> PartialUpload:
        upload = self._kept(PartialUpload(secrets.token_hex(16), owner, name, length_bytes, metadata))
        self._records.create(_record(upload))
        return replace(upload, version=1)

    def get(self, upload_id: str) -> PartialUpload:
        """Raises UploadNotFound."""
        record = self._records.get(KIND, upload_id)
        if record is None:
            raise _not_found(upload_id)
        return _upload(record)

    def part(self, upload: PartialUpload) -> ArtifactWriter:
        """Under a key of its own, so that who loses a race removes nobody else's bytes."""
        if len(upload.parts) >= MOST_PARTS:
            raise MalformedRequest(f"{MOST_PARTS} parts came already; begin a new upload, of larger ones")
        key = f"{upload.id}-{upload.offset_bytes}-{secrets.token_hex(4)}"
        return self._store.writer("part", upload.left_bytes, key)

    def append(self, upload: PartialUpload, part: Artifact) -> PartialUpload:
        """Raises UploadNotFound or OffsetMismatch where the upload went on without this part, which is removed."""
        longer = replace(upload, offset_bytes=upload.offset_bytes + part.size_bytes, parts=(*upload.parts, part.key))
        if (written := self._write(longer)) is not None:
            return written
        with contextlib.suppress(UploadNotFound):
            if part.key in (last := self.get(upload.id)).parts:
                return last
        self._remove([part.key])
        raise OffsetMismatch(
            f"the upload stands at {self.get(upload.id).offset_bytes} bytes, and the part begins at "
            f"{upload.offset_bytes}"
        )

    def assemble(self, upload: PartialUpload) -> PartialUpload:
        """The whole, stored; as often as it is asked for. Raises UploadNotFound."""
        try:
            whole = replace(upload, video=self._join(upload), parts=())
        except ArtifactNotFound:  # another process was faster, or somebody emptied the store
            return self._joined_by_another(upload)
        written = self._write(whole) or self._joined_by_another(upload)
        self._remove(upload.parts)
        return written

    def finish(self, upload: PartialUpload) -> PartialUpload:
        """Its video is sound."""
        return self._write(replace(upload, done=True)) or self.get(upload.id)

    def drop(self, upload: PartialUpload) -> None:
        """The record first: parts without one are nobody's."""
        self._records.delete(KIND, upload.id)
        self._remove(upload.parts)

    def _join(self, upload: PartialUpload) -> str:
        with self._store.writer("video", upload.length_bytes) as writer:
            for key in upload.parts:
                with self._store.path("part", key).open("rb") as file:
                    while block := file.read(BLOCK_BYTES):
                        writer.write(block)
            if writer.size_bytes != upload.length_bytes:
                raise ArtifactNotFound(f"upload {upload.id}: {writer.size_bytes} of {upload.length_bytes} bytes left")
            return writer.commit().key

    def _joined_by_another(self, upload: PartialUpload) -> PartialUpload:
        last = self.get(upload.id)
        if last.video is None:
            self.drop(last)
            raise UploadNotFound(f"what came of upload {upload.id} is no longer stored; begin a new one")
        return last

    def _write(self, upload: PartialUpload) -> PartialUpload | None:
        kept = self._kept(upload)
        written = self._records.replace(_record(kept))
        return None if written is None else replace(kept, version=written.version)

    def _kept(self, upload: PartialUpload) -> PartialUpload:
        return replace(upload, expires_at_s=time.time() + self._keep_s)

    def _remove(self, parts: Collection[str]) -> None:
        for key in parts:
            with contextlib.suppress(ArtifactNotFound):
                self._store.delete("part", key)


def needed_parts(records: Records, keys: Collection[str]) -> set[str]:
    """Those that the record of an upload lists."""
    found = (records.get(KIND, upload_id) for upload_id in {key.partition("-")[0] for key in keys})
    return {key for record in found if record is not None for key in record.body["parts"]} & set(keys)


def _record(upload: PartialUpload) -> Record:
    body = {name: value for name, value in asdict(upload).items() if name not in {"id", "version"}}
    return Record(KIND, upload.id, body, upload.version, expires_at_s=upload.expires_at_s)


def _upload(record: Record) -> PartialUpload:
    fields: dict[str, Any] = known_fields(PartialUpload, dict(record.body))
    parts = tuple(fields.pop("parts"))
    return PartialUpload(**{**fields, "id": record.id, "version": record.version, "parts": parts})


def _not_found(upload_id: str) -> UploadNotFound:
    return UploadNotFound(f"no upload {upload_id!r}, or it has expired; begin a new one")
