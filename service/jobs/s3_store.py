"""Bytes and a key in, objects below one prefix of a bucket out: an artifact store for an API and workers far apart.

`<prefix>/<kind>/<key>` holds an artifact, `used/` and `doomed/` beside it what is known of its use and removal (see
service.jobs.s3_removal). What comes is spooled to a local file, then put; what is asked for is a local file of a cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO

from service.errors import (
    ArtifactNotFound,
    DeploymentError,
    StorageFull,
    Unavailable,
    first_line,
)
from service.jobs.artifacts import Artifact, Kind
from service.jobs.file_cache import FileCache
from service.jobs.local_store import (
    ABANDONED_S,
    COMPUTED,
    VERSION,
    LocalWriter,
    age_s,
    check_key,
    read_identity,
    remove_unlocked,
)
from service.jobs.s3_objects import Found, Objects, is_lasting
from service.jobs.s3_removal import MARK_LAG_S, Names, Removal

DESCRIBED = "store.json"
CONDITIONS = "conditions"


class S3Store:
    """Opening it asks nothing of the storage; `id` does, and tells what is wrong with the deployment."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        cache: Path,
        cache_bytes: int,
        min_free_bytes: int = 0,
        *,
        mark_lag_s: float = MARK_LAG_S,
    ) -> None:
        self._objects = Objects(bucket, prefix)
        self._removal = Removal(self._objects, mark_lag_s)
        self.min_free_bytes = min_free_bytes
        # A cache folder may serve several stores, whose features have the same keys.
        place = hashlib.sha256(f"{self._objects.endpoint} {bucket} {prefix}".encode()).hexdigest()
        try:
            self._cache = FileCache(cache.absolute() / place[:16], cache_bytes)
        except OSError as error:
            raise DeploymentError(
                f"cache of the artifact store {cache}: {first_line(error)}; a writable folder is needed"
            ) from None

    @functools.cached_property
    def id(self) -> str:
        where = self._objects.where
        try:
            self._check_conditions()
            described = self._objects.read(DESCRIBED) or self._describe()
        except Unavailable as error:
            if not is_lasting(error):
                raise
            raise DeploymentError(
                f"artifact store: {error}; a bucket is needed that these AWS_* credentials may read, write, list and "
                "delete in"
            ) from None
        return read_identity(described[0], f"{DESCRIBED} in {where}")

    def writer(self, kind: Kind, max_bytes: int | None = None, key: str | None = None) -> LocalWriter:
        if key is not None:
            check_key(kind, key)
        return LocalWriter(self, kind, max_bytes, key)

    def put(self, kind: Kind, data: bytes, key: str | None = None) -> Artifact:
        with self.writer(kind, None, key) as writer:
            writer.write(data)
            return writer.commit()

    def path(self, kind: Kind, key: str) -> Path:
        names = _names(kind, key)
        found = self._removal.use(names)

        def fetch(file: IO[bytes]) -> None:
            version = self._objects.download(names.data, file)
            if version is None:
                raise ArtifactNotFound(f"{kind} {key} was removed while it was read from the artifact store")
            if version != found.version:
                raise Unavailable(f"{kind} {key} was replaced while it was read from the artifact store; ask again")

        return self._cache.get(_cached(names, found.version), found.size_bytes, fetch)

    def touch(self, kind: Kind, key: str) -> None:
        self._removal.use(_names(kind, key))

    def delete(self, kind: Kind, key: str) -> None:
        names = _names(kind, key)
        self._cache.forget(_cached(names, self._removal.delete(names).version))

    def sweep(self, kind: Kind, unused_s: float, in_use: Callable[[Collection[str]], set[str]]) -> int:
        removed = self._sweep_incoming()
        used_before_s = self._removal.now_s() - unused_s - self._removal.mark_lag_s
        put = {key: found for key, found in self._objects.list(kind) if COMPUTED.fullmatch(key)}
        marks = dict(self._objects.list(f"used/{kind}"))
        self._sweep_marks(kind, {key: mark for key, mark in marks.items() if key not in put}, used_before_s)
        unused = [key for key, found in put.items() if _last_use_s(found, marks.get(key)) < used_before_s]
        needed = in_use(unused) if unused else set()
        return removed + sum(
            self._removal.remove(Names(kind, key), used_before_s, in_use) for key in unused if key not in needed
        )

    def free_bytes(self) -> int:
        """Of the cache, through which all goes; object storage does not tell."""
        return self._cache.free_bytes()

    def ping(self) -> None:
        self._objects.find(DESCRIBED)

    def check_room(self, kind: Kind) -> None:
        if kind != "result" and (free := self.free_bytes()) < self.min_free_bytes:
            raise StorageFull(f"{free} bytes are free in the store's cache; at least {self.min_free_bytes} are needed")

    def new_file(self) -> Path:
        return self._cache.incoming / secrets.token_hex(16)

    def adopt(self, received: Path, kind: Kind, key: str, replace: bool) -> None:
        """Puts a received file, unless the same bytes are there already, and keeps it in the cache."""
        names = _names(kind, key)
        version = (None if replace else self._version(names)) or self._put(received, names)
        self._cache.adopt(received, _cached(names, version))

    def _version(self, names: Names) -> str | None:
        try:
            return self._removal.use(names).version
        except ArtifactNotFound:
            return None

    def _put(self, received: Path, names: Names) -> str:
        """A mark before it for what is replaced, and one after it, since an upload may take long."""
        self._removal.mark(names)
        self._removal.await_end(names)
        version = self._objects.upload(names.data, received)
        self._removal.mark(names)
        try:
            self._removal.use(names)
        except ArtifactNotFound:
            raise Unavailable(f"{names.kind} {names.key} was removed while it was put; send it again") from None
        return version

    def _describe(self) -> tuple[bytes, Found]:
        """The first process that puts its description decides for all."""
        described = json.dumps({"id": secrets.token_hex(16), "version": VERSION}).encode()
        self._objects.create(DESCRIBED, described)
        found = self._objects.read(DESCRIBED)
        if found is None:
            raise Unavailable(f"{self._objects.where} does not keep what is written")
        return found

    def _check_conditions(self) -> None:
        """Some servers take conditional writes and ignore the condition; with them removals would not be safe."""
        self._objects.create(CONDITIONS, b"")
        if self._objects.create(CONDITIONS, b"") or self._objects.replace(CONDITIONS, b"", '"another"'):
            raise DeploymentError(
                f"artifact store: {self._objects.where} ignores If-None-Match or If-Match on writes; "
                "object storage with conditional writes is needed"
            )

    def _sweep_incoming(self) -> int:
        return sum(remove_unlocked(file) for file in self._cache.incoming.iterdir() if age_s(file) > ABANDONED_S)

    def _sweep_marks(self, kind: Kind, orphans: dict[str, Found], used_before_s: float) -> None:
        """Of uses that came while their artifact was removed."""
        for key, mark in orphans.items():
            if mark.written_at_s < used_before_s:
                self._objects.delete(f"used/{kind}/{key}")


def _names(kind: Kind, key: str) -> Names:
    check_key(kind, key)
    return Names(kind, key)


def _cached(names: Names, version: str) -> str:
    return f"{names.data} {version}"


def _last_use_s(put: Found, mark: Found | None) -> float:
    return max(put.written_at_s, mark.written_at_s if mark else 0.0)
