"""Items of batches with URLs in; their videos, fetched beside the turns of their batches, out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from service.api import remote_videos
from service.api.batch_records import Batch, BatchShelf
from service.api.state import DOWNLOADS, ApiState
from service.api.uploads import Upload

# The other half is for those who wait for an answer.
AT_ONCE, OF_OWNER, OF_BATCH = DOWNLOADS // 2, DOWNLOADS // 2 - 1, 2
LOOK_S = 1.0
KEPT_S = 120.0


@dataclass(frozen=True)
class Download:
    batch: Batch
    task: asyncio.Task[Upload]
    began_at_s: float = field(default_factory=time.monotonic)


class Downloads:
    """Of one process. A turn starts and collects them, and never waits: a host may be as slow as it likes."""

    def __init__(self, state: ApiState) -> None:
        self._state, self._shelf = state, BatchShelf(state.records)
        self._by_key: dict[str, Download] = {}
        self._looked_at_s = 0.0

    def take(self, batch: Batch, key: str, url: str) -> Upload | None:
        """None while it comes, or has to wait until it may; raises what kept it from coming."""
        download = self._by_key.get(key)
        if download is None:
            if self._may_begin(batch):
                task = asyncio.create_task(remote_videos.receive(self._state, url, key))
                self._by_key[key] = Download(batch, task)
            return None
        if not download.task.done():
            return None
        del self._by_key[key]
        return None if download.task.cancelled() else download.task.result()

    def waits(self, batch: Batch, key: str) -> bool:
        """Whether nothing can be taken now."""
        download = self._by_key.get(key)
        return not (download.task.done() if download else self._may_begin(batch))

    def _may_begin(self, batch: Batch) -> bool:
        under_way = [one.batch for one in self._by_key.values() if not one.task.done()]
        of_owner = sum(one.owner == batch.owner for one in under_way) if batch.owner else 0
        of_batch = sum(one.id == batch.id for one in under_way)
        return len(under_way) < AT_ONCE and of_owner < OF_OWNER and of_batch < OF_BATCH

    async def look(self) -> None:
        """Ends those of batches that were canceled, by whatever process, and forgets what nobody collects."""
        if time.monotonic() - self._looked_at_s < LOOK_S:
            return
        self._looked_at_s = time.monotonic()
        longest_s = self._state.config.video_url_timeout_s + remote_videos.DOWNLOAD_WAIT_S + KEPT_S
        for record_id in {one.batch.record_id for one in self._by_key.values()}:
            batch = await self._state.ask(self._shelf.peek, record_id)
            if batch is None or batch.state != "in_progress":
                self.stop(record_id)
        for key, one in list(self._by_key.items()):
            if one.task.done() and time.monotonic() - one.began_at_s > longest_s:
                del self._by_key[key]

    def stop(self, record_id: str | None = None) -> None:
        """Of one batch, or all."""
        for key, one in list(self._by_key.items()):
            if record_id in {None, one.batch.record_id}:
                one.task.cancel()
                one.task.add_done_callback(_seen)
                del self._by_key[key]


def _seen(task: asyncio.Task[Upload]) -> None:
    """So that nothing is logged of what nobody collects."""
    if not task.cancelled():
        task.exception()
