"""Queue, store, records and times of keeping in; what nobody needs any longer gone. Any number of janitors may run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from service.errors import TalError
from service.jobs.artifacts import ArtifactStore, Kind
from service.jobs.partial_uploads import needed_parts
from service.jobs.queue import JobQueue
from service.jobs.records import Records

# A store of many files takes long to look through; the rest between takes that many times as long.
STORE_REST = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """How long each kind of artifact is kept after its last use, at least."""

    uploads_s: float = 86400.0
    results_s: float = 7 * 86400.0
    features_s: float = 7 * 86400.0
    parts_s: float = 86400.0

    def by_kind(self) -> dict[Kind, float]:
        return {"video": self.uploads_s, "result": self.results_s, "features": self.features_s, "part": self.parts_s}


class Janitor:
    def __init__(self, queue: JobQueue, store: ArtifactStore, records: Records, retention: Retention) -> None:
        self._queue, self._store, self._records, self._retention = queue, store, records, retention

    def run_once(self) -> None:
        """Jobs first, since a job that is removed frees its artifacts; one failure does not keep the rest from it."""
        self._sweep_records()
        self._sweep_stores()

    def run_forever(self, stop: threading.Event, every_s: float) -> None:
        store_at_s = 0.0
        while not stop.is_set():
            self._sweep_records()
            if (began_s := time.monotonic()) >= store_at_s:
                self._sweep_stores()
                ended_s = time.monotonic()
                store_at_s = ended_s + STORE_REST * (ended_s - began_s)
            stop.wait(every_s)

    def _sweep_stores(self) -> None:
        for kind, unused_s in self._retention.by_kind().items():
            self._sweep_store(kind, unused_s)

    def _sweep_records(self) -> None:
        for what, sweep in (("the queue", self._queue.sweep), ("the records", self._records.sweep)):
            try:
                swept = sweep()
            except Exception as error:  # noqa: BLE001
                _tell(what, error)
            else:
                log.debug("%s swept: %s", what, swept)

    def _sweep_store(self, kind: Kind, unused_s: float) -> None:
        needed = self._needed_parts if kind == "part" else self._queue.references
        try:
            removed = self._store.sweep(kind, unused_s, needed)
        except Exception as error:  # noqa: BLE001
            _tell(f"the store ({kind})", error)
        else:
            log.log(logging.INFO if removed else logging.DEBUG, "store swept: %s unused, %d removed", kind, removed)

    def _needed_parts(self, keys: Collection[str]) -> set[str]:
        return needed_parts(self._records, keys)


def _tell(what: str, error: Exception) -> None:
    """What was not foreseen is told with its trace, and ends no janitor either."""
    foreseen = isinstance(error, TalError | OSError)
    log.warning("housekeeping of %s failed: %s", what, error, exc_info=None if foreseen else error)
