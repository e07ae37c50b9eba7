"""Hosts to be asked in; which may be asked now out, so that those who answer need not wait for those who do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

STUCK_S = 2.0


class Lanes:
    """At most `per_host` requests at once to a host, and one alone to a host that failed last."""

    def __init__(self, per_host: int, steady_s: Callable[[], float] = time.monotonic) -> None:
        self._per_host, self._steady_s = per_host, steady_s
        self._since_s: dict[str, list[float]] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        with self._lock:
            return sum(map(len, self._since_s.values()))

    def enter(self, host: str) -> bool:
        with self._lock:
            under_way = self._since_s.get(host, [])
            if len(under_way) >= (1 if host in self._failed else self._per_host):
                return False
            self._since_s[host] = [*under_way, self._steady_s()]
            return True

    def leave(self, host: str, *, failed: bool | None = None) -> None:
        """None says nothing new of the host."""
        with self._lock:
            under_way = self._since_s.pop(host)[1:]
            if under_way:
                self._since_s[host] = under_way
            if failed is not None:
                (self._failed.add if failed else self._failed.discard)(host)
                self._forget()

    def stuck(self, host: str) -> bool:
        """Whether somebody has waited for the host for long."""
        with self._lock:
            return self._steady_s() - min(self._since_s.get(host, [self._steady_s()])) >= STUCK_S

    def _forget(self) -> None:
        if len(self._failed) > 10_000:  # hosts are of callers' naming, and endless
            self._failed.clear()
