"""What became of each item in; a file that survives an interrupt, and from it the output in the items' order, out."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.errors import InvalidOptions


@dataclass(frozen=True)
class Places:
    """Where a batch is written: the journal is the truth, the other two are made of it."""

    output: Path
    errors: Path
    journal: Path

    @staticmethod
    def of(out: Path) -> Places:
        """In a folder, or, where a `.jsonl` is named, beside it."""
        if out.suffix == ".jsonl":
            return Places(out, out.with_suffix(".errors.jsonl"), out.with_suffix(".journal.jsonl"))
        return Places(out / "output.jsonl", out / "errors.jsonl", out / "journal.jsonl")


@dataclass(frozen=True)
class Entry:
    key: str
    offset: int
    failed: bool
    final: bool


class Journal:
    """One line per end of an item, on the disk once `add` returns. One process at a time has it open."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._entries: dict[str, Entry] = {}
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()
        try:
            places.journal.parent.mkdir(parents=True, exist_ok=True)
            self._file = places.journal.open("a+b")
        except OSError as error:
            raise InvalidOptions(f"{places.journal} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InvalidOptions(f"{places.journal} is in use by another run") from None
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def done(self, custom_id: str, key: str) -> bool:
        entry = self._entries.get(custom_id)
        return entry is not None and entry.key == key and entry.final

    def failed(self, custom_id: str) -> bool:
        return self._entries[custom_id].failed

    def tries(self, key: str) -> int:
        """How often it was tried to its end: another try needs another idempotency key."""
        return self._tries[key]

    def add(self, key: str, line: dict[str, Any], *, final: bool) -> None:
        kept = {"key": key, "final": final, **line}
        with self._lock:
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(json.dumps(kept).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._keep(kept, offset)

    def write(self, custom_ids: Iterable[str]) -> None:
        """Output and errors in this order, each whole or as it was before."""
        parts = [path.with_suffix(".part") for path in (self._places.output, self._places.errors)]
        with parts[0].open("wb") as output, parts[1].open("wb") as errors:
            for custom_id in custom_ids:
                entry = self._entries[custom_id]
                self._file.seek(entry.offset)
                line = json.loads(self._file.readline())
                told = {name: value for name, value in line.items() if name not in {"key", "final"}}
                (errors if entry.failed else output).write(json.dumps(told).encode() + b"\n")
        for part, path in zip(parts, (self._places.output, self._places.errors), strict=True):
            part.replace(path)

    def _read(self) -> None:
        """A line that was cut off is taken away: its item is done again."""
        self._file.seek(0)
        offset = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                self._keep(json.loads(line), offset)
            except (ValueError, KeyError, TypeError):
                break
            offset += len(line)
        self._file.truncate(offset)

    def _keep(self, line: dict[str, Any], offset: int) -> None:
        entry = Entry(line["key"], offset, "error" in line, line["final"])
        self._entries[line["custom_id"]] = entry
        self._tries[entry.key] += 1
