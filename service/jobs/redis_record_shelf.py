"""Records in the Redis of the queue: documents go in, and come out as they were last written.

Keys, all of them under `{namespace}:` (with the braces, so that they belong to one slot):

| key | type | holds |
|---|---|---|
| `r:documents:{kind}` | hash | for each id "version token due expires body", with `-` for a moment that is none |
| `r:ids:{kind}` | zset | ids in order |
| `r:due:{kind}` | zset | ids by the moment that something is due |
| `r:expiries` | zset | "kind id" by the moment of expiry, until a sweep removes them |

A kind holds no space and no colon. The moment is always Redis's.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service.jobs.records import Record
from service.jobs.redis_connection import RedisConnection

_SCRIPT = ("redis_record_shelf.lua",)
_BEHIND_ALL = "\x7f"  # of the characters that an id may hold


class RedisRecords:
    """Records for any number of machines; processes and threads share it."""

    def __init__(self, url: str, namespace: str = "tal") -> None:
        self._redis = RedisConnection(url, namespace, _SCRIPT, {})

    def create(self, record: Record) -> Record | None:
        return replace(record, version=1) if self._write("create", record) else None

    def get(self, kind: str, record_id: str) -> Record | None:
        found = self._read("get", kind, 1, id=record_id)
        return found[0] if found else None

    def replace(self, record: Record) -> Record | None:
        written = self._write("replace", record, version=str(record.version))
        return replace(record, version=record.version + 1) if written else None

    def delete(self, kind: str, record_id: str) -> None:
        self._redis.step("delete", kind=kind, id=record_id)

    def page(
        self, kind: str, prefix: str = "", beyond: str | None = None, limit: int = 100, *, newest_first: bool = False
    ) -> list[Record]:
        first, last = f"[{prefix}", f"({prefix}{_BEHIND_ALL}"
        if newest_first:
            start = last if beyond is None else f"({min(beyond, last[1:])}"
            return self._read("page", kind, limit, **{"from": start, "to": first, "downwards": True})
        start = first if beyond is None or beyond < prefix else f"({beyond}"
        return self._read("page", kind, limit, **{"from": start, "to": last})

    def due(self, kind: str, limit: int = 100) -> list[Record]:
        return self._read("due", kind, limit)

    def sweep(self) -> int:
        return int(self._redis.step("sweep")[1])

    def close(self) -> None:
        self._redis.close()

    def _write(self, step: str, record: Record, **args: Any) -> bool:
        written = self._redis.step(
            step,
            kind=record.kind,
            id=record.id,
            body=json.dumps(dict(record.body)),
            due=_moment(record.due_at_s),
            expires=_moment(record.expires_at_s),
            token=secrets.token_hex(8),
            **args,
        )
        return bool(written[0] == "ok")

    def _read(self, step: str, kind: str, limit: int, **args: Any) -> list[Record]:
        found = self._redis.step(step, kind=kind, limit=max(0, limit), **args)[1]
        return [_record(kind, fields) for fields in found]


def _moment(at_s: float | None) -> str:
    return "-" if at_s is None else repr(float(at_s))


def _seconds(moment: str) -> float | None:
    return None if moment == "-" else float(moment)


def _record(kind: str, fields: Sequence[str]) -> Record:
    record_id, version, due, expires, body = fields
    return Record(kind, record_id, json.loads(body), int(version), _seconds(due), _seconds(expires))
