"""Batches that are due in; their turns taken, one after the other, by whichever API process comes first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from service.api.batch_records import BatchShelf
from service.api.batch_turn import Overtaken, Turn
from service.api.state import ApiState
from service.errors import Unavailable
from service.jobs.records import Record

log = logging.getLogger(__name__)
POLL_S = 0.2
BATCHES_AT_ONCE = 8
KNOWN_JOBS = 100_000
LAST_TURN_S = 3.0


class Feeder:
    """Runs in every API process. A batch is claimed for a lease, so that a feeder's death delays it by no more."""

    def __init__(self, state: ApiState) -> None:
        self._state = state
        self._shelf = BatchShelf(state.records)
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, int] = {}  # versions of jobs, so that only changed ones are read

    async def run(self, over: asyncio.Event) -> None:
        """Until the service drains, or it is over, and then to the end of the turns that were begun."""
        while not (self._state.draining or over.is_set()):
            for record in await self._due():
                self._turns[record.id] = asyncio.create_task(self._turn(record))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), POLL_S)
        await asyncio.gather(*self._turns.values())

    async def _due(self) -> list[Record]:
        free = BATCHES_AT_ONCE - len(self._turns)
        try:
            due = await self._state.ask(self._shelf.due, BATCHES_AT_ONCE) if free else []
        except Unavailable:
            return []  # told by readiness
        except Exception:
            log.exception("batches cannot be looked for")
            return []
        return [record for record in due if record.id not in self._turns][:free]

    async def _turn(self, record: Record) -> None:
        if len(self._known) > KNOWN_JOBS:
            self._known.clear()
        try:
            batch = await self._state.ask(self._shelf.claim, record, time.time() + self._state.config.lease_s)
            if batch is None:
                return
            if batch.finished or batch.state == "receiving":  # its time is over, or whoever sent it is gone
                await self._state.ask(self._shelf.forget, batch)
            else:
                await Turn(self._state, batch, self._known).take()
        except (Overtaken, Unavailable) as error:
            log.info("batch %s waits: %s", record.id, error)
        except Exception:
            log.exception("the turn of batch %s failed", record.id)
        finally:
            del self._turns[record.id]


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
