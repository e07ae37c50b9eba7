"""Signals in; counts, and a file descriptor that wakes whoever waits, out."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Signals:
    """SIGTERM and SIGINT ask to end, the second time at once; SIGHUP asks for the models to be read again.

    SIGUSR1 is a parent's order to end. Where a signal went to all processes at once, it comes on top of that one, and
    must not count as its repetition.
    """

    def __init__(self) -> None:
        self.ending = False
        self.at_once = False
        self._signaled = False
        self.reload = False
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._before: dict[int, Any] = {}
        self._before_fd = -1

    def fileno(self) -> int:
        return self._read_fd

    def clear(self) -> None:
        os.read(self._read_fd, 4096)

    def __enter__(self) -> Signals:
        self._before_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._hear) for number in _HEARD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._before_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
            return
        self.ending = True
        if number != signal.SIGUSR1:
            self.at_once, self._signaled = self._signaled, True
