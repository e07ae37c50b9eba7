"""An object, its mark of use and its tombstone in; the object used, put or removed, but never removed after a use, out.

Object storage has no locks, but every read sees the last write before it, and a write can be made to depend on what is
there. `used/...` is dated by the storage at every use (once a minute per process); `doomed/...` is the tombstone, which
says how far a removal has come: first "pending", then either "withdrawn" by whoever needs the artifact or "executing"
by whoever removes it. Each step replaces the version that it has read, and no two versions are alike, so exactly one of
the two succeeds. Nothing but the end of an execution deletes a tombstone.

Why no use in time loses its artifact: a use dates the mark, then looks for a tombstone. A removal writes the tombstone,
then looks at the mark. Whichever came second sees the other: a removal that sees the new date ends there, and a use
that sees a pending tombstone withdraws it, whereupon the removal cannot be executed. So a use that succeeded keeps the
artifact for `unused_s`; meanwhile its job is in the queue, which is asked after the tombstone was written. A use that
sees an execution is told that nothing is there, and a put waits for its end, so that the new bytes are not deleted.

Marks may lag a minute behind the use, which the removal adds to `unused_s`; all ages are by the storage's own clock. A
removal whose process died is taken up by another after three minutes; one that was merely halted notices, since it
begins no deletion later than 30 s after its step, and each deletion ends within 30 s.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from service.errors import ArtifactNotFound, Unavailable
from service.jobs.artifacts import Kind
from service.jobs.s3_objects import Found

PENDING, WITHDRAWN, EXECUTING = b"pending", b"withdrawn", b"executing"
# What a mark may lag behind the use: written once a minute, dated in whole seconds.
MARK_LAG_S = 65.0
# Longer than the step before an execution and its three deletions may take.
ORPHANED_S = 180.0
EXECUTE_S = 30.0
POLL_S = 0.2
MOST_MARKS = 100_000


class Objects(Protocol):
    def find(self, name: str) -> Found | None: ...
    def read(self, name: str) -> tuple[bytes, Found] | None: ...
    def write(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> str | None: ...
    def replace(self, name: str, data: bytes, version: str) -> str | None: ...
    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class Names:
    """The three objects of an artifact."""

    kind: Kind
    key: str

    @property
    def data(self) -> str:
        return f"{self.kind}/{self.key}"

    @property
    def mark(self) -> str:
        return f"used/{self.kind}/{self.key}"

    @property
    def tombstone(self) -> str:
        return f"doomed/{self.kind}/{self.key}"


class Removal:
    def __init__(self, objects: Objects, mark_lag_s: float = MARK_LAG_S) -> None:
        self._objects, self.mark_lag_s = objects, mark_lag_s
        self._marked_s: dict[Names, float] = {}
        self._marking = threading.Lock()

    def use(self, names: Names) -> Found:
        """Raises ArtifactNotFound where it is gone, or going."""
        is_due = self._is_due(names)
        if is_due and self._objects.find(names.data) is None:  # what is not there gets no mark
            raise _not_found(names)
        if is_due:
            self.mark(names)
        found = None if self._doomed(names) else self._objects.find(names.data)
        if found is None:
            self._forget(names)
            raise _not_found(names)
        return found

    def mark(self, names: Names) -> None:
        at_s = time.monotonic()
        self._objects.write(names.mark, b"")
        with self._marking:
            if len(self._marked_s) >= MOST_MARKS:
                self._marked_s.clear()
            self._marked_s[names] = at_s

    def await_end(self, names: Names) -> None:
        """Before bytes are put: returns once no removal can take them. Raises Unavailable where that takes long."""
        give_up_s = time.monotonic() + EXECUTE_S
        while self._doomed(names):
            if self._is_taken_up(names):
                return
            if time.monotonic() > give_up_s:
                raise Unavailable(f"{names.kind} {names.key} is just being removed; send it again")
            time.sleep(POLL_S)

    def remove(self, names: Names, used_before_s: float, in_use: Callable[[Collection[str]], set[str]]) -> bool:
        """Whether it is removed: not where it was used, or is needed, or another process is at it."""
        version = self._begin(names)
        if version is None:
            return self._is_taken_up(names)
        if self._is_used(names, used_before_s) or in_use([names.key]):
            self._objects.replace(names.tombstone, _state(WITHDRAWN), version)
            return False
        return self._execute(names, version)

    def delete(self, names: Names) -> Found:
        """At once, used or not."""
        found = self._objects.find(names.data)
        if found is None:
            raise _not_found(names)
        self._forget(names)
        self._objects.delete(names.data)
        self._objects.delete(names.mark)
        return found

    def now_s(self) -> float:
        """By the storage's clock, which dates the objects."""
        self._objects.write("clock", b"")
        found = self._objects.find("clock")
        if found is None:
            raise Unavailable("the object storage does not keep what is written")
        return found.written_at_s

    def _is_due(self, names: Names) -> bool:
        every_s = self.mark_lag_s * 0.9
        with self._marking:
            return time.monotonic() - self._marked_s.get(names, -every_s) >= every_s

    def _forget(self, names: Names) -> None:
        with self._marking:
            self._marked_s.pop(names, None)

    def _doomed(self, names: Names) -> bool:
        """Withdraws what is pending; True where a removal is executed already."""
        while (told := self._objects.read(names.tombstone)) is not None:
            state, found = told
            if state.startswith(EXECUTING):
                return True
            if state.startswith(WITHDRAWN):
                return False
            self._objects.replace(names.tombstone, _state(WITHDRAWN), found.version)
        return False

    def _begin(self, names: Names) -> str | None:
        """The version of a pending tombstone that is ours; None where another process has one."""
        if version := self._objects.create(names.tombstone, _state(PENDING)):
            return version
        told = self._objects.read(names.tombstone)
        if told is None or told[0].startswith(EXECUTING):
            return None
        state, found = told
        if state.startswith(PENDING) and not self._is_orphaned(found):
            return None
        return self._objects.replace(names.tombstone, _state(PENDING), found.version)

    def _is_taken_up(self, names: Names) -> bool:
        """Ends an execution whose process is gone."""
        told = self._objects.read(names.tombstone)
        if told is None or not told[0].startswith(EXECUTING) or not self._is_orphaned(told[1]):
            return False
        return self._execute(names, told[1].version)

    def _is_orphaned(self, tombstone: Found) -> bool:
        return self.now_s() - tombstone.written_at_s > ORPHANED_S

    def _execute(self, names: Names, version: str) -> bool:
        """The tombstone goes last: while it is there nothing is used or put."""
        began_s = time.monotonic()
        if self._objects.replace(names.tombstone, _state(EXECUTING), version) is None:
            return False
        for name in (names.data, names.mark, names.tombstone):
            if time.monotonic() - began_s > EXECUTE_S:
                return False  # halted for so long that another may have taken it up
            self._objects.delete(name)
        return True

    def _is_used(self, names: Names, used_before_s: float) -> bool:
        data, mark = self._objects.find(names.data), self._objects.find(names.mark)
        if data is None:
            return True  # nothing is left to remove
        return max(data.written_at_s, mark.written_at_s if mark else 0.0) >= used_before_s


def _state(state: bytes) -> bytes:
    """Unlike any other, so that its version is."""
    return state + b" " + secrets.token_hex(16).encode()


def _not_found(names: Names) -> ArtifactNotFound:
    return ArtifactNotFound(f"{names.kind} {names.key} is not, or no longer, in the artifact store")
