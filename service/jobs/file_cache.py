"""Versions of artifacts in; local files with their bytes out, fetched once for all processes of this machine.

Files that were used least recently go when the cache grows beyond its bound. Two things keep one that is still needed:
it was given out in the last five minutes, or it is among the last few that a living process was given, which holds
them locked. So a decoder finds its video however long its job runs, since a worker has one job at a time; whoever has
a file open reads on even after its removal. While all is needed the cache may be larger than its bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from service.errors import StorageFull
from service.jobs.local_store import full_is_told, is_at, make_folder, remove_unlocked

RECENT_S = 300.0
HELD = 4
POLL_S = 0.05
BUSY_S = 0.001


class FileCache:
    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self._most_bytes = folder, most_bytes
        self.incoming = folder / "incoming"
        make_folder(self.incoming)
        make_folder(folder / "files")
        self._room_bytes = self._unseen_bytes = 0
        self._held: deque[int] = deque()
        self._holding = threading.Lock()
        weakref.finalize(self, _close_all, self._held)

    def get(self, name: str, size_bytes: int, fetch: Callable[[IO[bytes]], None]) -> Path:
        """Fetches what is not here, and what several ask for at once only once."""
        file = self._file(name)
        while not (self._hold(file) or self._fetch(file, size_bytes, fetch)):
            time.sleep(BUSY_S)
        return file

    def adopt(self, received: Path, name: str) -> None:
        """A file of this folder becomes the cached one."""
        file, size_bytes = self._file(name), received.stat().st_size
        make_folder(file.parent)
        _place(received, file)
        self.make_room(0, size_bytes)

    def forget(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def make_room(self, size_bytes: int, added_bytes: int = 0) -> None:
        """Removes what was not used for longest until so much more fits below the bound.

        A look at all files takes long where they are small and many: none before an eighth of the room is used.
        """
        self._unseen_bytes += size_bytes + added_bytes
        short_bytes = size_bytes - self.free_bytes()
        if self._unseen_bytes <= self._room_bytes / 8 and short_bytes <= 0:
            return
        files = sorted(self._used())
        excess_bytes = max(sum(size for _, size, _ in files) + size_bytes - self._most_bytes, short_bytes)
        self._room_bytes, self._unseen_bytes = -excess_bytes, 0
        for used_at_s, size, file in files:
            if excess_bytes <= 0 or used_at_s > time.time() - RECENT_S:
                return
            if remove_unlocked(file):
                excess_bytes -= size

    def _file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / "files" / digest[:2] / digest

    def _hold(self, file: Path) -> bool:
        """Whether it is there, and held from now on."""
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return False
        return self._keep(descriptor, file)

    def _keep(self, descriptor: int, file: Path) -> bool:
        """Locks and dates a file; False where another is placing or removing it just then.

        Never waits for that other, which may be waiting for this one.
        """
        if not (_is_locked(descriptor, fcntl.LOCK_SH) and is_at(descriptor, file)):
            os.close(descriptor)
            return False
        os.utime(descriptor)
        with self._holding:
            self._held.append(descriptor)
            while len(self._held) > HELD:
                os.close(self._held.popleft())
        return True

    def _fetch(self, file: Path, size_bytes: int, fetch: Callable[[IO[bytes]], None]) -> bool:
        """Whether it was fetched here, and is held.

        The lock is on the half-fetched file, so that it is free once its holder is gone, however that ended. Its name
        goes before the lock is shared: that is no single step, and another may have the lock for itself in between.
        """
        with _locked(self.incoming / file.name) as half:
            if half is None:
                return False
            partial, received = half
            try:
                if file.exists():
                    return False
                self._fill(received, size_bytes, fetch)
                make_folder(file.parent)
                with contextlib.suppress(FileExistsError):
                    os.link(partial, file)
            finally:
                partial.unlink()
            return self._keep(os.dup(received.fileno()), file)

    def _fill(self, received: IO[bytes], size_bytes: int, fetch: Callable[[IO[bytes]], None]) -> None:
        self.make_room(size_bytes)
        if (free_bytes := self.free_bytes()) < size_bytes:
            raise StorageFull(f"{free_bytes} bytes are free in the cache; {size_bytes} are needed")
        with full_is_told():
            received.truncate()
            fetch(received)
            received.flush()

    def _used(self) -> Iterator[tuple[float, int, Path]]:
        for file in (self.folder / "files").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                about = file.stat()
                yield about.st_mtime, about.st_size, file


def _close_all(descriptors: deque[int]) -> None:
    while descriptors:
        os.close(descriptors.popleft())


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[tuple[Path, IO[bytes]] | None]:
    """The file for whoever is alone with it; None where another has ended with it meanwhile."""
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        while not _is_locked(file.fileno(), fcntl.LOCK_EX) and is_at(file.fileno(), partial):
            time.sleep(POLL_S)  # once whole it is locked by its users, so that a blocking wait might never end
        yield (partial, file) if is_at(file.fileno(), partial) else None


def _is_locked(descriptor: int, how: int) -> bool:
    """Locks it, unless another has."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _place(received: Path, file: Path) -> None:
    """One that is there already stays: it may be in use, and holds the same bytes."""
    with contextlib.suppress(FileExistsError):
        os.link(received, file)
    received.unlink()
