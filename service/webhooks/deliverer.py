"""Messages that are due in; each handed to the courier, and what came of it in its record, out."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from service.errors import TalError
from service.jobs.records import Record, Records
from service.webhooks.courier import Courier
from service.webhooks.lanes import Lanes
from service.webhooks.message import KIND, Message, read, write
from service.webhooks.outbox import Outbox
from service.webhooks.schedule import Schedule, Sent

LOOK = 200
# A message to a host that keeps others waiting makes room for theirs for up to so long.
PUT_OFF_S = 600.0
WRITES = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """`lease_s` is longer than any attempt; what was under way for longer, in a process that ended, is due again."""

    lease_s: float = 60.0
    at_once: int = 32
    per_host: int = 4


class Deliverer:
    """Any number of them share the messages: who moves a message's moment ahead has it, for as long as a lease.

    `count` is told what each attempt has made of its message: delivered, retried, or given_up.
    """

    def __init__(
        self,
        outbox: Outbox,
        records: Records,
        courier: Courier,
        *,
        count: Callable[[str], None],
        schedule: Schedule | None = None,
        terms: Terms | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._outbox, self._records, self._courier, self._count, self._now_s = outbox, records, courier, count, now_s
        self._schedule, self._terms = schedule or Schedule(), terms or Terms()
        self._lanes = Lanes(self._terms.per_host)
        self._woken = threading.Event()

    def run_forever(self, stop: threading.Event, every_s: float) -> None:
        """Ends once what is under way has been answered."""
        with self._pool() as pool:
            while not stop.is_set():
                self._woken.clear()
                self._round(pool)
                self._woken.wait(every_s)

    def run_once(self) -> None:
        """One look at what is due; returns once what was begun has been answered."""
        with self._pool() as pool:
            self._round(pool)

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._terms.at_once, thread_name_prefix="webhook")

    def _round(self, pool: ThreadPoolExecutor) -> None:
        try:
            self._outbox.collect()
            due = self._records.due(KIND, LOOK)
            for record in due:
                if self._lanes.taken >= self._terms.at_once:
                    return
                self._begin(pool, record, crowded=len(due) == LOOK)
        except Exception as error:  # noqa: BLE001
            _tell("webhooks wait", error)

    def _begin(self, pool: ThreadPoolExecutor, record: Record, *, crowded: bool) -> None:
        host = urlsplit(record.body["url"]).netloc.lower()
        if not self._lanes.enter(host):
            if crowded and self._lanes.stuck(host):
                self._push(record, random.uniform(1.0, PUT_OFF_S))  # noqa: S311
            return
        claimed = None
        try:
            claimed = self._push(record, self._terms.lease_s)
        finally:
            if claimed is None:
                self._lanes.leave(host)
        if claimed is not None:
            pool.submit(self._deliver, read(claimed), host)

    def _push(self, record: Record, ahead_s: float) -> Record | None:
        return self._records.replace(replace(record, due_at_s=self._now_s() + ahead_s))

    def _deliver(self, message: Message, host: str) -> None:
        failed: bool | None = None
        try:
            sent = self._courier.post(message, self._now_s())
            failed = not (sent.succeeded or sent.denied)
            self._settle(message, sent)
        except Exception as error:  # noqa: BLE001
            _tell(f"what came of {message.id} is not kept, so it is sent again", error)
        finally:
            self._lanes.leave(host, failed=failed)
            self._woken.set()

    def _settle(self, message: Message, sent: Sent) -> None:
        settled = self._schedule.after(message, sent, self._now_s())
        said = sent.attempt.error or f"the receiver answered {sent.attempt.status}"
        level = logging.WARNING if settled.state == "given_up" else logging.INFO
        log.log(level, "webhook message %s is %s: %s", message.id, settled.state, said)
        self._count("retried" if settled.state == "pending" else settled.state)
        for _ in range(WRITES):
            if self._records.replace(write(settled)) is not None:
                return
            record = self._records.get(KIND, write(message).id)
            if record is None:
                return
            settled = read(record).tried(sent.attempt)  # asked for again meanwhile, and that holds


def _tell(what: str, error: Exception) -> None:
    """What was not foreseen is told with its trace, and ends no deliverer either."""
    foreseen = isinstance(error, TalError | OSError)
    log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
