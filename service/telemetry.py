"""Where the time goes: stages in, seconds per stage out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall-clock seconds per stage; stages do not nest."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds of every stage so far, in the order of their first use, and the total since the start."""
        return {**self._seconds, "total": time.perf_counter() - self._began}
