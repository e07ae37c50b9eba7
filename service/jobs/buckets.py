"""A name, a rate and a burst in; a token, or how long until there is one, out. Of one process; Redis has a twin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

# Buckets that are full again are forgotten, once there are so many.
MOST_BUCKETS = 10_000


class Buckets(Protocol):
    def take(self, name: str, per_s: float, burst: int) -> float:
        """Takes a token of the bucket, which holds `burst`; where there is none, the seconds until there is, else 0."""

    def close(self) -> None: ...


class MemoryBuckets:
    """Threads share it. Each bucket is the moment at which it is full again: `burst` tokens before it, it is empty."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at_s: dict[str, float] = {}

    def take(self, name: str, per_s: float, burst: int) -> float:
        with self._lock:
            now_s = self._clock()
            full_at_s = max(now_s, self._full_at_s.get(name, now_s)) + 1 / per_s
            wait_s = full_at_s - now_s - burst / per_s
            if wait_s > 1e-9:
                return wait_s
            self._full_at_s[name] = full_at_s
            if len(self._full_at_s) > MOST_BUCKETS:
                self._full_at_s = {name: at_s for name, at_s in self._full_at_s.items() if at_s > now_s}
            return 0.0

    def close(self) -> None:
        self._full_at_s.clear()
