"""A queue, a store and times of keeping in; what nobody needs any longer gone. Any number of janitors may run."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from service.errors import TalError
from service.jobs.artifacts import ArtifactStore, Kind
from service.jobs.queue import JobQueue

# A store of many files takes long to look through; the rest between takes that many times as long.
STORE_REST = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """How long each kind of artifact is kept after its last use, at least."""

    uploads_s: float = 86400.0
    results_s: float = 7 * 86400.0
    features_s: float = 7 * 86400.0

    def by_kind(self) -> dict[Kind, float]:
        return {"video": self.uploads_s, "result": self.results_s, "features": self.features_s}


class Janitor:
    def __init__(self, queue: JobQueue, store: ArtifactStore, retention: Retention) -> None:
        self._queue, self._store, self._retention = queue, store, retention

    def run_once(self) -> None:
        """Jobs first, since a job that is removed frees its artifacts; one failure does not keep the rest from it."""
        self._sweep_queue()
        self._sweep_stores()

    def run_forever(self, stop: threading.Event, every_s: float) -> None:
        store_at_s = 0.0
        while not stop.is_set():
            self._sweep_queue()
            if (began_s := time.monotonic()) >= store_at_s:
                self._sweep_stores()
                ended_s = time.monotonic()
                store_at_s = ended_s + STORE_REST * (ended_s - began_s)
            stop.wait(every_s)

    def _sweep_stores(self) -> None:
        for kind, unused_s in self._retention.by_kind().items():
            self._sweep_store(kind, unused_s)

    def _sweep_queue(self) -> None:
        try:
            swept = self._queue.sweep()
        except Exception as error:  # noqa: BLE001
            _tell("the queue", error)
        else:
            log.debug("queue swept: %s", swept)

    def _sweep_store(self, kind: Kind, unused_s: float) -> None:
        try:
            removed = self._store.sweep(kind, unused_s, self._queue.references)
        except Exception as error:  # noqa: BLE001
            _tell(f"the store's {kind}s", error)
        else:
            log.log(logging.INFO if removed else logging.DEBUG, "store swept of %d unused %ss", removed, kind)


def _tell(what: str, error: Exception) -> None:
    """What was not foreseen is told with its trace, and ends no janitor either."""
    foreseen = isinstance(error, TalError | OSError)
    log.warning("housekeeping of %s failed: %s", what, error, exc_info=None if foreseen else error)
