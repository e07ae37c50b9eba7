"""Bytes and a key in, files of one folder out: the artifact store of one machine, or of several on a shared volume.

A shard of the folder has a lock. Uses and new files share it, a removal has it alone, so an artifact is either used in
time and stays, or is gone for whoever comes later. A file being received is locked by its writer and nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from service.errors import (
    ArtifactNotFound,
    DeploymentError,
    StorageFull,
    StoreMismatch,
    VideoTooLarge,
    first_line,
)
from service.jobs.artifacts import KINDS, Artifact, Kind

VERSION = 1
SHA256 = re.compile("[0-9a-f]{64}")
COMPUTED = re.compile(r"(?!\.)[a-z0-9._-]{1,128}")
# A writer creates its file and then locks it; a file this young may be between the two.
ABANDONED_S = 60.0
CHECK_BYTES = 4 * 1024 * 1024
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class LocalStore:
    """Results may use up the last `min_free_bytes`, so that jobs which were accepted can end; nothing else may."""

    def __init__(self, folder: Path, min_free_bytes: int = 0) -> None:
        self.folder = folder.absolute()
        self.min_free_bytes = min_free_bytes
        self._incoming = self.folder / "incoming"
        try:
            for part in (self._incoming, *(self.folder / kind for kind in KINDS)):
                make_folder(part)
            self.id = self._identity()
        except OSError as error:
            raise DeploymentError(
                f"artifact store {folder}: {first_line(error)}; a writable folder is needed"
            ) from None

    def writer(self, kind: Kind, max_bytes: int | None = None, key: str | None = None) -> LocalWriter:
        if key is not None:
            check_key(kind, key)
        return LocalWriter(self, kind, max_bytes, key)

    def put(self, kind: Kind, data: bytes, key: str | None = None) -> Artifact:
        if key is not None:
            self._file(kind, key)
        with LocalWriter(self, kind, None, key) as writer:
            writer.write(data)
            return writer.commit()

    def path(self, kind: Kind, key: str) -> Path:
        self.touch(kind, key)
        return self._file(kind, key)

    def touch(self, kind: Kind, key: str) -> None:
        file = self._file(kind, key)
        with _missing_is_told(kind, key), _shard(file, fcntl.LOCK_SH):
            os.utime(file)

    def delete(self, kind: Kind, key: str) -> None:
        file = self._file(kind, key)
        with _missing_is_told(kind, key), _shard(file, fcntl.LOCK_EX):
            file.unlink()

    def sweep(self, kind: Kind, unused_s: float, in_use: Callable[[Collection[str]], set[str]]) -> int:
        removed = self._sweep_incoming()
        unused = {file.name: file for file in self._files(kind) if age_s(file) > unused_s}
        needed = in_use(list(unused)) if unused else set()
        return removed + sum(
            self._remove(file, unused_s, in_use) for key, file in sorted(unused.items()) if key not in needed
        )

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def ping(self) -> None:
        self._incoming.stat()

    def check_room(self, kind: Kind) -> None:
        """Raises StorageFull before the disk is."""
        if kind != "result" and (free := self.free_bytes()) < self.min_free_bytes:
            raise StorageFull(f"{free} bytes are free in the artifact store; at least {self.min_free_bytes} are needed")

    def new_file(self) -> Path:
        return self._incoming / secrets.token_hex(16)

    def adopt(self, received: Path, kind: Kind, key: str, replace: bool) -> None:
        """Gives a received file its name, unless the same bytes are there already."""
        file = self._file(kind, key)
        make_folder(file.parent)
        with _shard(file, fcntl.LOCK_SH):
            if not replace and file.exists():
                os.utime(file)
                received.unlink()
            else:
                received.replace(file)
        _sync_folder(file.parent)

    def _file(self, kind: Kind, key: str) -> Path:
        check_key(kind, key)
        shard = key if SHA256.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
        return self.folder / kind / shard[:2] / shard[2:4] / key

    def _files(self, kind: Kind) -> Iterator[Path]:
        return (self.folder / kind).glob("??/??/*")

    def _remove(self, file: Path, unused_s: float, in_use: Callable[[Collection[str]], set[str]]) -> bool:
        """Asks again with the shard locked: what was used since then has a new time, what was not can no longer be."""
        with contextlib.suppress(FileNotFoundError), _shard(file, fcntl.LOCK_EX):
            if file.exists() and age_s(file) > unused_s and not in_use([file.name]):
                file.unlink()
                return True
        return False

    def _sweep_incoming(self) -> int:
        return sum(remove_unlocked(file) for file in self._incoming.iterdir() if age_s(file) > ABANDONED_S)

    def _identity(self) -> str:
        """The first process that links its file under the name decides for all."""
        described = self.folder / "store.json"
        if not described.exists():
            offered = self.new_file()
            with offered.open("x", encoding="utf-8") as file:
                json.dump({"id": secrets.token_hex(16), "version": VERSION}, file)
                file.flush()
                os.fsync(file.fileno())
            offered.chmod(0o600)
            with contextlib.suppress(FileExistsError):
                os.link(offered, described)
            offered.unlink()
            _sync_folder(self.folder)
        return read_identity(described.read_bytes(), str(described))


class Receiver(Protocol):
    """A store as its writers see it."""

    def check_room(self, kind: Kind) -> None: ...

    def new_file(self) -> Path: ...

    def adopt(self, received: Path, kind: Kind, key: str, replace: bool) -> None: ...


class LocalWriter:
    """Parts in, an artifact under the sha256 of them all (or the key given) out."""

    def __init__(self, store: Receiver, kind: Kind, max_bytes: int | None, key: str | None = None) -> None:
        store.check_room(kind)
        self.size_bytes = 0
        self._store, self._kind, self._max_bytes, self._key = store, kind, max_bytes, key
        self._digest = hashlib.sha256()
        self._unchecked_bytes = 0
        self._path = store.new_file()
        with full_is_told():
            self._descriptor: int | None = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def write(self, part: bytes) -> None:
        if self._max_bytes is not None and self.size_bytes + len(part) > self._max_bytes:
            raise VideoTooLarge(f"more than {self._max_bytes} bytes came; at most {self._max_bytes} are accepted")
        self._unchecked_bytes += len(part)
        if self._unchecked_bytes >= CHECK_BYTES:
            self._store.check_room(self._kind)
            self._unchecked_bytes = 0
        self._append(part)
        self._digest.update(part)
        self.size_bytes += len(part)

    def commit(self) -> Artifact:
        key = self._key or self._digest.hexdigest()
        with full_is_told():
            os.fsync(self._open_descriptor())
            self._store.adopt(self._path, self._kind, key, replace=self._key is not None)
        self._close()
        return Artifact(self._kind, key, self.size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            self._close()

    def _append(self, part: bytes) -> None:
        left = memoryview(part)
        with full_is_told():
            while left:
                left = left[os.write(self._open_descriptor(), left) :]

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("this writer has ended")
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._open_descriptor(), None
        os.close(descriptor)


def check_key(kind: Kind, key: str) -> None:
    if not COMPUTED.fullmatch(key) or kind not in KINDS:
        raise ArtifactNotFound(f"no {kind} {key[:200]!r} in the artifact store; keys are 64 hexadecimal digits")


@contextlib.contextmanager
def _shard(file: Path, how: int) -> Iterator[None]:
    """Locks the 256th part of a kind that the file is in; closing the descriptor unlocks it."""
    descriptor = os.open(file.parent.parent / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _missing_is_told(kind: Kind, key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArtifactNotFound(f"{kind} {key} is not, or no longer, in the artifact store") from None


@contextlib.contextmanager
def full_is_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StorageFull(f"the artifact store has no room left: {first_line(error)}") from None


def read_identity(described: bytes, where: str) -> str:
    try:
        found = json.loads(described)
        store_id, version = str(found["id"]), found["version"]
    except (ValueError, KeyError, TypeError):
        raise StoreMismatch(f"{where} is damaged; it holds the id and the version of the store") from None
    if version != VERSION:
        raise StoreMismatch(f"{where} is of version {version!r}; this release reads version {VERSION}")
    return store_id


def remove_unlocked(file: Path) -> bool:
    """Whether it was removed: what another has locked stays, and so does what took its name meanwhile."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, file):
                file.unlink()
                return True
        finally:
            os.close(descriptor)
    return False


def is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def age_s(file: Path) -> float:
    """Seconds since the last use; a file that is gone was used now."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def make_folder(folder: Path) -> None:
    """With its parents, each of them entered durably in the one above."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
