"""The queue's SQLite file: a path goes in, connections to a file of the right form come out."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.errors import QueueUnavailable, QueueUnfit

VERSION = 1
APPLICATION_ID = 0x54414C51  # "TALQ", by which a file of another program is told from ours
BUSY_TIMEOUT_S = 10.0

# Their locks do not reach other machines, or they cannot map WAL's shared memory: a queue there would lose jobs.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "ocfs2", "gfs2", "glusterfs"}
    | {"beegfs", "ncpfs", "coda", "gpfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"}
    | {"fuse.gcsfuse", "fuse.davfs", "fuse.juicefs", "fuse.mount-s3", "fuse.blobfuse2"}
    # Folders of a virtual machine's host, and a place where something is still to be mounted.
    | {"virtiofs", "vboxsf", "prl_fs", "autofs"}
)

# `boot` and `until_s` hold a lease's end for a job that runs, a pause's end for one that waits. `rank` is the order of
# taking. What stands in no column of its own is in `request`, `progress` and `failure`, as JSON.
DDL = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE jobs (
        id TEXT PRIMARY KEY, request TEXT NOT NULL, model TEXT NOT NULL, priority TEXT NOT NULL,
        video_key TEXT NOT NULL, video_s REAL NOT NULL, deadline_at_s REAL,
        state TEXT NOT NULL, created_at_s REAL NOT NULL, updated_at_s REAL NOT NULL, started_at_s REAL,
        finished_at_s REAL, version INTEGER NOT NULL, delivery INTEGER NOT NULL, attempts INTEGER NOT NULL,
        worker TEXT, progress TEXT, failure TEXT, dead_letter INTEGER NOT NULL,
        rank REAL NOT NULL, boot TEXT NOT NULL DEFAULT '', until_s REAL NOT NULL DEFAULT 0,
        settled TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX jobs_to_take ON jobs (rank, id) WHERE state = 'queued'",
    "CREATE INDEX jobs_queued ON jobs (priority, video_s, created_at_s) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (until_s, boot) WHERE state IN ('running', 'canceling')",
    "CREATE INDEX jobs_deadline ON jobs (deadline_at_s) WHERE state = 'queued' AND deadline_at_s IS NOT NULL",
    "CREATE INDEX jobs_finished ON jobs (finished_at_s) WHERE finished_at_s IS NOT NULL",
    "CREATE INDEX jobs_unfinished_video ON jobs (video_key) WHERE finished_at_s IS NULL",
    "CREATE INDEX jobs_dead ON jobs (id) WHERE dead_letter = 1",
    "CREATE INDEX jobs_state ON jobs (state, id)",
    "CREATE INDEX jobs_model ON jobs (model, id)",
    """CREATE TABLE tags (tag TEXT NOT NULL, job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
        PRIMARY KEY (tag, job_id)) WITHOUT ROWID""",
    "CREATE INDEX tags_of_job ON tags (job_id)",
    """CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at_s REAL NOT NULL,
        data TEXT NOT NULL, job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE)""",
    "CREATE INDEX events_of_job ON events (job_id, id)",
    "CREATE TABLE results (job_id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, text TEXT, key TEXT)",
    "CREATE INDEX results_key ON results (key) WHERE key IS NOT NULL",
    """CREATE TABLE idempotency (key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, at_s REAL NOT NULL,
        job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE)""",
    "CREATE INDEX idempotency_of_job ON idempotency (job_id)",
    "CREATE INDEX idempotency_age ON idempotency (at_s)",
    """CREATE TABLE workers (id TEXT PRIMARY KEY, record TEXT NOT NULL, boot TEXT NOT NULL,
        until_s REAL NOT NULL)""",
)

# What later releases added. A file of an earlier one gets it when it is opened, and the earlier release goes on using
# the file beside this one: it leaves the new columns at their defaults, and what it ends is noticed by the trigger.
ADDED_COLUMNS = {"owner": "TEXT NOT NULL DEFAULT ''", "webhook": "INTEGER NOT NULL DEFAULT 0"}
ADDED = (
    "CREATE INDEX IF NOT EXISTS jobs_owner ON jobs (owner, id) WHERE owner <> ''",
    "CREATE INDEX IF NOT EXISTS jobs_owner_queued ON jobs (owner, video_s) WHERE state = 'queued' AND owner <> ''",
    """CREATE TABLE IF NOT EXISTS notices (id INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL UNIQUE REFERENCES jobs ON DELETE CASCADE)""",
    """CREATE TRIGGER IF NOT EXISTS jobs_ended AFTER UPDATE OF finished_at_s ON jobs
        WHEN NEW.webhook = 1 AND OLD.finished_at_s IS NULL AND NEW.finished_at_s IS NOT NULL
        BEGIN INSERT INTO notices (job_id) VALUES (NEW.id); END""",
    """CREATE TABLE IF NOT EXISTS records (kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,
        version INTEGER NOT NULL, due_at_s REAL, expires_at_s REAL, PRIMARY KEY (kind, id)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS records_due ON records (kind, due_at_s) WHERE due_at_s IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS records_expiry ON records (expires_at_s) WHERE expires_at_s IS NOT NULL",
)


def prepare(path: Path, mounts: str | None = None) -> None:
    """Makes the file, for its owner's eyes only, or raises QueueUnfit for one that must not be used."""
    refuse_network(path, mounts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never one that is there: closing it would take away the locks of this process's other connections to it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise QueueUnavailable(f"The queue file {path} cannot be opened: it is a folder") from None
    except OSError as error:
        raise QueueUnavailable(f"The queue file {path} cannot be opened: {error.strerror or error}") from error
    connection = connect(path)
    try:
        _bring_up(connection, path)
    finally:
        connection.close()


def connect(path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    # mode=rw: a file that was removed under a running service is told, not silently begun anew.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def refuse_network(path: Path, mounts: str | None = None) -> None:
    """`mounts` is the text of /proc/mounts; where there is none, nothing is known and nothing refused."""
    _walk_to(path)
    kind = file_system(path, _mounts() if mounts is None else mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise QueueUnfit(
            f"The queue file {path} lies on a network file system ({kind}), where SQLite's locks lose jobs; "
            "put it on a local disk, or use a Redis queue"
        )


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that a path lies on, or will."""
    place = path.resolve()
    kind, depth = "", -1
    for fields in (line.split() for line in mounts.splitlines()):
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # The last of equal mount points is the one that is seen.
        if place.is_relative_to(point) and len(point.parts) >= depth:
            kind, depth = fields[2], len(point.parts)
    return kind


def _walk_to(path: Path) -> None:
    """What is mounted when somebody comes is mounted then; a mere `stat` of its mount point does not do it."""
    for folder in path.absolute().parents:
        with suppress(OSError):
            os.statvfs(folder)
            return


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        return ""


def _bring_up(connection: sqlite3.Connection, path: Path) -> None:
    _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
    connection.execute("BEGIN IMMEDIATE")
    try:
        version, application = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == 0:
            _create(connection)
        elif application != APPLICATION_ID:
            raise QueueUnfit(f"{path} is a database of another program; name a file that does not exist yet")
        elif version != VERSION:
            raise QueueUnfit(_strange_version(path, version))
        _add(connection)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


_MARKS = ("user_version", "application_id")


def _create(connection: sqlite3.Connection) -> None:
    for statement in DDL:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _add(connection: sqlite3.Connection) -> None:
    known = {row["name"] for row in connection.execute("PRAGMA table_info(jobs)")}
    for name, form in ADDED_COLUMNS.items():
        if name not in known:
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {form}")
    for statement in ADDED:
        connection.execute(statement)


def _strange_version(path: Path, version: int) -> str:
    maker = "a later" if version > VERSION else "an earlier"
    return (
        f"The queue file {path} has form {version}, made by {maker} release; this one reads form {VERSION}. "
        "Run the release that made it until its jobs have finished, or name a new file"
    )


def _patiently(step: Callable[[], Any]) -> None:
    """Switching to WAL does not wait for a lock as other statements do."""
    give_up_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            step()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)
        else:
            return
