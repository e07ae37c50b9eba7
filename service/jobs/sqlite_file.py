"""The queue's SQLite file at work: calls borrow connections and transactions; SQLite's errors come out as ours."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import QueueUnavailable, QueueUnfit, StorageFull, TalError, first_line
from service.jobs import sqlite_schema

_IDLE_CONNECTIONS = 16
_LITTLE_DISK_BYTES = 1 << 20


class SqliteFile:
    """Threads share it: each call borrows a connection of its own, and the idle ones are kept for the next."""

    def __init__(self, path: Path, mounts: str | None = None, waited: Callable[[float], None] | None = None) -> None:
        """`waited` is told how long each write waited for the others, also if in vain."""
        self._path = path
        self._waited = waited
        self._idle: list[sqlite3.Connection] = []
        with self.told():
            sqlite_schema.prepare(path, mounts)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        with self.read() as db:
            began_s = time.monotonic()
            try:
                db.execute("BEGIN IMMEDIATE")
            finally:
                if self._waited is not None:
                    self._waited(time.monotonic() - began_s)
            yield db
            db.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call; whatever it has not committed is rolled back."""
        with self.told():
            db = self._idle.pop() if self._idle else sqlite_schema.connect(self._path)
            try:
                yield db
            except TalError:
                self._return(db)
                raise
            except BaseException:
                db.close()
                raise
            self._return(db)

    def _return(self, db: sqlite3.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if len(self._idle) < _IDLE_CONNECTIONS:
            self._idle.append(db)
        else:
            db.close()

    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
                raise QueueUnfit(f"{self._path} is not a SQLite file; name a file that does not exist yet") from error
            # A full disk can show as an input or output error, where SQLite grew a file beside the database.
            full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
            if full or (isinstance(error, sqlite3.OperationalError) and _little_disk(self._path)):
                raise StorageFull(f"The disk of the queue file {self._path} is full") from error
            raise QueueUnavailable(f"The queue file {self._path} does not answer: {first_line(error)}") from error


def _little_disk(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE_DISK_BYTES
    except OSError:
        return False
