"""Records in the queue's SQLite file: documents go in, and come out as they were last written."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from service.jobs.lease_clock import Clock, SystemClock
from service.jobs.records import Record
from service.jobs.sqlite_file import SqliteFile

_CLOCK = SystemClock()
_LIVE = "(expires_at_s IS NULL OR expires_at_s > :now)"


class SqliteRecords:
    """Records for the processes and threads of one machine."""

    def __init__(self, path: Path, clock: Clock = _CLOCK, mounts: str | None = None) -> None:
        self._clock = clock
        self._file = SqliteFile(path, mounts)

    def create(self, record: Record) -> Record | None:
        made = Record(record.kind, record.id, record.body, 1, record.due_at_s, record.expires_at_s)
        with self._file.write() as db:
            db.execute(f"DELETE FROM records WHERE kind = :kind AND id = :id AND NOT {_LIVE}", self._named(record))  # noqa: S608
            count = db.execute(
                "INSERT OR IGNORE INTO records (kind, id, body, version, due_at_s, expires_at_s) VALUES (?,?,?,?,?,?)",
                (made.kind, made.id, json.dumps(dict(made.body)), made.version, made.due_at_s, made.expires_at_s),
            ).rowcount
        return made if count else None

    def get(self, kind: str, record_id: str) -> Record | None:
        query = f"SELECT * FROM records WHERE kind = :kind AND id = :id AND {_LIVE}"  # noqa: S608
        with self._file.read() as db:
            row = db.execute(query, self._named(Record(kind, record_id))).fetchone()
        return None if row is None else _record(row)

    def replace(self, record: Record) -> Record | None:
        made = Record(record.kind, record.id, record.body, record.version + 1, record.due_at_s, record.expires_at_s)
        statement = f"""UPDATE records
            SET body = :body, version = :version + 1, due_at_s = :due, expires_at_s = :expires
            WHERE kind = :kind AND id = :id AND version = :version AND {_LIVE}"""  # noqa: S608
        values = {
            **self._named(record),
            "body": json.dumps(dict(record.body)),
            "version": record.version,
            "due": record.due_at_s,
            "expires": record.expires_at_s,
        }
        with self._file.write() as db:
            count = db.execute(statement, values).rowcount
        return made if count else None

    def delete(self, kind: str, record_id: str) -> None:
        with self._file.write() as db:
            db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, record_id))

    def page(
        self, kind: str, prefix: str = "", beyond: str | None = None, limit: int = 100, *, newest_first: bool = False
    ) -> list[Record]:
        first, last = ("<", "DESC") if newest_first else (">", "ASC")
        query = f"""SELECT * FROM records WHERE kind = :kind AND id >= :prefix AND id < :prefix || char(127) AND {_LIVE}
            AND (:beyond IS NULL OR id {first} :beyond) ORDER BY id {last} LIMIT :limit"""  # noqa: S608
        values = {"kind": kind, "prefix": prefix, "beyond": beyond, "limit": max(0, limit), "now": self._clock.wall_s()}
        with self._file.read() as db:
            return [_record(row) for row in db.execute(query, values)]

    def due(self, kind: str, limit: int = 100) -> list[Record]:
        query = f"""SELECT * FROM records INDEXED BY records_due WHERE kind = :kind AND due_at_s <= :now AND {_LIVE}
            ORDER BY due_at_s, id LIMIT :limit"""  # noqa: S608
        values = {"kind": kind, "limit": max(0, limit), "now": self._clock.wall_s()}
        with self._file.read() as db:
            return [_record(row) for row in db.execute(query, values)]

    def sweep(self) -> int:
        now_s = self._clock.wall_s()
        with self._file.read() as db:
            if not db.execute("SELECT EXISTS (SELECT 1 FROM records WHERE expires_at_s <= ?)", (now_s,)).fetchone()[0]:
                return 0
        with self._file.write() as db:
            return db.execute("DELETE FROM records WHERE expires_at_s <= ?", (now_s,)).rowcount

    def close(self) -> None:
        self._file.close()

    def _named(self, record: Record) -> dict[str, object]:
        return {"kind": record.kind, "id": record.id, "now": self._clock.wall_s()}


def _record(row: sqlite3.Row) -> Record:
    return Record(row["kind"], row["id"], json.loads(row["body"]), row["version"], row["due_at_s"], row["expires_at_s"])
