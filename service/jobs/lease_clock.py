"""The time by which leases are kept: in, nothing; out, seconds that never jump, the boot that they count from, and Unix
time for records."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """`steady_s` compares only between moments of the same `boot`, but in every process of the machine."""

    @property
    def boot(self) -> str: ...

    def steady_s(self) -> float: ...

    def wall_s(self) -> float: ...


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
