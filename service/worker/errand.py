"""A call that may take long in; its outcome, once a supervisor that never waits comes round to look for it, out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
# Most calls end at once; these are not left to the next look.
PATIENCE_S = 0.2


class Errand(Generic[T]):
    """Runs in a thread that ends with the process, whatever it is stuck in."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="errand")
        self._thread.start()
        self._thread.join(PATIENCE_S)

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> T:
        """Of one that is done; raises what the call raised."""
        if self._error is not None:
            raise self._error
        value: T = self._value  # type: ignore[assignment]  # of a call that may return None
        return value

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001  (whoever asks for the outcome gets it)
            self._error = error
