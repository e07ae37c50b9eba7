"""The time by which leases are kept: in, nothing; out, seconds that never jump, the boot that they count from, Unix
time for records, and whether leases may end now."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# A file is locked for milliseconds, unless a process stood still amid a write.
LONG_LOCKED_S = 2.0
LONG_SUSPENDED_S = 1.0


class Clock(Protocol):
    """`steady_s` compares only between moments of the same `boot`, but in every process of the machine."""

    @property
    def boot(self) -> str: ...

    def steady_s(self) -> float: ...

    def wall_s(self) -> float: ...

    def suspended_s(self) -> float:
        """For how long the machine was suspended since its boot."""


class SystemClock:
    """CLOCK_BOOTTIME, which a set clock does not move and a suspended machine does not stop; else Unix time."""

    def __init__(self, boot_id: Path = _BOOT_ID) -> None:
        self._clock_id = getattr(time, "CLOCK_BOOTTIME", None)
        self.boot = ""
        try:
            self.boot = boot_id.read_text().strip()
        except OSError:
            self._clock_id = None  # without a boot's name its seconds could be taken for those of another boot

    def steady_s(self) -> float:
        return time.time() if self._clock_id is None else time.clock_gettime(self._clock_id)

    def wall_s(self) -> float:
        return time.time()

    def suspended_s(self) -> float:
        return 0.0 if self._clock_id is None else time.clock_gettime(self._clock_id) - time.monotonic()


class Grace:
    """The time in which no lease ends: a lease's length after the machine slept, or the file was locked for long.

    Nobody could renew then, and those who come first afterwards need not be the owners.
    """

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock, self._lease_s = clock, lease_s
        self._suspended_s = clock.suspended_s()
        self._until_s = -math.inf

    def waited(self, seconds: float) -> None:
        """For the file's lock."""
        if seconds > LONG_LOCKED_S:
            self._until_s = self._clock.steady_s() + self._lease_s

    def lapsing_s(self) -> float:
        """The moment, of the steady clock, before which leases must have ended to end now."""
        now_s, suspended_s = self._clock.steady_s(), self._clock.suspended_s()
        if suspended_s - self._suspended_s > LONG_SUSPENDED_S:
            self._suspended_s, self._until_s = suspended_s, now_s + self._lease_s
        return now_s if now_s >= self._until_s else -math.inf
