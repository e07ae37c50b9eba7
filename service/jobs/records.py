"""The promise that every shelf of records keeps: small JSON documents that outlive any process.

What is not a job but must not be lost (uploads in parts, batches, webhook messages, API keys) is a record. Several
processes may work on one: a change is written only over the version that it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Record:
    """`id` is made of printable ASCII without spaces, at most 200 characters; records of a kind are in its order.

    `kind` is a word, such as "batch".
    From `due_at_s` on somebody should do something about it, from `expires_at_s` on it is gone (Unix times).
    """

    kind: str
    id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    due_at_s: float | None = None
    expires_at_s: float | None = None


class Records(Protocol):
    """Every method may raise QueueUnavailable: the records lie where the jobs do."""

    def create(self, record: Record) -> Record | None:
        """The record as stored, with version 1, or None where there is one of its kind and id."""

    def get(self, kind: str, record_id: str) -> Record | None: ...

    def replace(self, record: Record) -> Record | None:
        """Writes body and moments, and counts the version up; None where the record's version is no longer the last."""

    def delete(self, kind: str, record_id: str) -> None:
        """What is not there is no error."""

    def page(
        self, kind: str, prefix: str = "", beyond: str | None = None, limit: int = 100, *, newest_first: bool = False
    ) -> list[Record]:
        """Those whose id begins with `prefix`, by id, upwards or downwards, behind the id `beyond`."""

    def due(self, kind: str, limit: int = 100) -> list[Record]:
        """Those whose moment has come, the longest overdue first."""

    def sweep(self) -> int:
        """Removes what has expired, by any process, often. Their number."""

    def close(self) -> None: ...
