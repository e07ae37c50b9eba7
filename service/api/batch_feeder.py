"""Batches that are due in; their turns taken, one after the other, by whichever API process comes first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from service.api.batch_downloads import Downloads
from service.api.batch_items import Beside
from service.api.batch_records import MOST_UNFINISHED, BatchShelf
from service.api.batch_turn import Overtaken, Turn
from service.api.state import ApiState
from service.errors import Unavailable
from service.jobs.records import Record

log = logging.getLogger(__name__)
POLL_S = 0.2
BATCHES_AT_ONCE, OF_OWNER = 8, 4
# More than an owner may have, so that others are seen behind them.
MOST_DUE = 2 * MOST_UNFINISHED
LAST_TURN_S = 3.0


class Feeder:
    """Runs in every API process. A batch is claimed for a lease, so that a feeder's death delays it by no more."""

    def __init__(self, state: ApiState) -> None:
        self._state = state
        self._shelf = BatchShelf(state.records)
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._owners: Counter[str] = Counter()  # of turns
        self._beside = Beside(Downloads(state))

    async def run(self, over: asyncio.Event) -> None:
        """Until the service drains, or it is over, and then to the end of the turns that were begun."""
        while not (self._state.draining or over.is_set()):
            for record in await self._due():
                self._begin(record)
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), POLL_S)
        self._beside.downloads.stop()
        try:
            await asyncio.gather(*self._turns.values())
        finally:
            self._beside.downloads.stop()

    def _begin(self, record: Record) -> None:
        owner = record.body["owner"]
        if len(self._turns) < BATCHES_AT_ONCE and (not owner or self._owners[owner] < OF_OWNER):
            self._owners[owner] += 1
            self._turns[record.id] = asyncio.create_task(self._turn(record))

    async def _due(self) -> list[Record]:
        try:
            await self._beside.downloads.look()
            due = await self._state.ask(self._shelf.due, MOST_DUE) if len(self._turns) < BATCHES_AT_ONCE else []
        except Unavailable:
            return []  # told by readiness
        except Exception:
            log.exception("batches cannot be looked for")
            return []
        return [record for record in due if record.id not in self._turns]

    async def _turn(self, record: Record) -> None:
        self._beside.tidy()
        try:
            batch = await self._state.ask(self._shelf.claim, record, time.time() + self._state.config.lease_s)
            if batch is None:
                return
            if batch.finished or batch.state == "receiving":  # its time is over, or whoever sent it is gone
                await self._state.ask(self._shelf.forget, batch)
            else:
                await Turn(self._state, batch, self._beside).take()
        except (Overtaken, Unavailable) as error:
            log.info("batch %s waits: %s", record.id, error)
        except Exception:
            log.exception("the turn of batch %s failed", record.id)
        finally:
            del self._turns[record.id]
            self._owners[record.body["owner"]] -= 1


@asynccontextmanager
async def feeding(state: ApiState) -> AsyncIterator[None]:
    """Feeds batches as long as the block, and a little longer: a turn that is cut off is made again by another."""
    over = asyncio.Event()
    task = asyncio.create_task(Feeder(state).run(over))
    try:
        yield
    finally:
        over.set()
        await asyncio.wait([task], timeout=LAST_TURN_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
