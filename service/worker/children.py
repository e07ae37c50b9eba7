"""A way to set up model processes in; one that lives out, and after a reload its successor."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from service.worker.child import BURIAL_S, CHILD_COMMAND, Child, ExecutorSetup
from service.worker.messages import Message

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
# Loading is no job: a process that starts on a busy machine, or reads a large graph, may be silent for so long.
LEAST_LOAD_S = 60.0

log = logging.getLogger("tal.worker")


class Children:
    """Holds the process that works (`current`) and, while models are loaded anew, the one that is to follow it."""

    def __init__(self, find_setup: Callable[[], ExecutorSetup], stall_s: float, command: Sequence[str]) -> None:
        self._find_setup = find_setup
        self._stall_s = stall_s
        self._command = command or CHILD_COMMAND
        self._setup = find_setup()
        self._start_at_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._heard_s: dict[Child, float] = {}
        self._next_setup = self._setup
        self.current: Child | None = None
        self.successor: Child | None = None

    @property
    def living(self) -> list[Child]:
        return [child for child in (self.current, self.successor) if child is not None]

    @property
    def wake_at_s(self) -> float:
        """When this wants to be looked after without a message: a start that is due."""
        return self._start_at_s if self.current is None else math.inf

    def start_if_due(self) -> None:
        if self.current is not None or time.monotonic() < self._start_at_s:
            return
        try:
            self.current = self._start(self._setup)
        except OSError as error:
            self._back_off()
            log.error("no model process can be started now: %s", error)

    def heard(self, child: Child, messages: Sequence[Message]) -> None:
        self._heard_s[child] = time.monotonic()
        if child is self.current and any(message["kind"] == "ready" for message in messages):
            self._pause_s = FIRST_PAUSE_S

    def silent(self) -> list[Child]:
        """Those that load models and have said nothing for too long; a job's silence is watched elsewhere."""
        limit_s = time.monotonic() - max(self._stall_s, LEAST_LOAD_S)
        waiting = [child for child in self.living if not child.ready and child.killed_for is None]
        return [child for child in waiting if self._heard_s[child] < limit_s]

    def unburied(self) -> list[Child]:
        """Those that were killed long ago and yet have not told their end: something still holds their socket."""
        return [child for child in self.living if time.monotonic() >= child.killed_at_s + BURIAL_S]

    def lose(self, child: Child) -> str:
        """One is dead: the next start waits longer each time, until one becomes ready. Tells how it ended."""
        self._heard_s.pop(child, None)
        cause = child.died_of()
        if child is self.successor:
            self.successor = None
            return cause
        was_ready, self.current = child.ready, None
        if not was_ready:
            self._back_off()
        return cause

    def reload(self) -> None:
        """Starts the successor, from models that are read again; raises where those are not even found."""
        self._next_setup = self._find_setup()
        if self.successor is not None:
            self._end(self.successor)
            self.successor = None
        self.successor = self._start(self._next_setup)

    def succeed(self) -> None:
        """The successor takes over; what it replaces ends."""
        if self.current is not None:
            self._end(self.current)
        self.current, self.successor, self._setup = self.successor, None, self._next_setup

    def close(self) -> None:
        for child in self.living:
            self._end(child)
        self.current = self.successor = None

    def _back_off(self) -> None:
        self._start_at_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _start(self, setup: ExecutorSetup) -> Child:
        child = Child(setup, self._command)
        self._heard_s[child] = time.monotonic()
        return child

    def _end(self, child: Child) -> None:
        self._heard_s.pop(child, None)
        child.close()


def told_refusal(child: Child) -> str:
    """What a process that could not start said of it."""
    said = child.refusal
    return f"{said['message']} [{said['code']}]" if said else "it said nothing"
