"""Items of a batch in; what is asked for each, once its video is there, out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.api import detections, grants, schemas
from service.api.access import Caller
from service.api.batch_downloads import Downloads
from service.api.batch_records import Batch, Item
from service.api.state import LOOKS, ApiState
from service.jobs.job import JobRequest, StoredVideo

KNOWN_JOBS, KNOWN_ITEMS = 100_000, 1000


@dataclass
class Beside:
    """What all turns of a process share; a few looks at a time leave the others to those who wait for an answer."""

    downloads: Downloads
    known: dict[str, int] = field(default_factory=dict)  # versions of jobs, so that only changed ones are read
    looks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(max(1, LOOKS // 2)))
    composing: dict[str, asyncio.Task[JobRequest | None]] = field(default_factory=dict)

    def stop(self, batch: Batch) -> None:
        """What is under way for a batch that goes on no more."""
        self.downloads.stop(batch.record_id)
        for key in [key for key in self.composing if key.startswith(f"{batch.tag} ")]:
            self.composing.pop(key).cancel()

    def tidy(self) -> None:
        """Forgets what another process has done meanwhile."""
        if len(self.known) > KNOWN_JOBS:
            self.known.clear()
        if len(self.composing) > KNOWN_ITEMS:
            self.composing = {key: task for key, task in self.composing.items() if not task.done()}


class BatchItems:
    """Looks at videos may outlive a turn; the next one finds what came of them."""

    def __init__(self, state: ApiState, batch: Batch, beside: Beside) -> None:
        self._state, self._batch, self._beside = state, batch, beside

    def key(self, item: Item) -> str:
        """No caller can send one, since it has a space."""
        return f"{self._batch.tag} {item.number}"

    async def compose(self, items: Sequence[Item], longest_s: float) -> list[JobRequest | BaseException | None]:
        """In the order of the items; None is asked for again in another turn."""
        tasks = [self._task(item) for item in items]
        await asyncio.wait(tasks, timeout=max(0.0, longest_s))
        return [self._outcome(item, task) for item, task in zip(items, tasks, strict=True)]

    def _task(self, item: Item) -> asyncio.Task[JobRequest | None]:
        composing, key = self._beside.composing, self.key(item)
        if key not in composing:
            composing[key] = asyncio.create_task(self._compose(item))
        return composing[key]

    def _outcome(self, item: Item, task: asyncio.Task[JobRequest | None]) -> JobRequest | BaseException | None:
        if not task.done():
            return None
        self._beside.composing.pop(self.key(item), None)
        return None if task.cancelled() else task.exception() or task.result()

    async def _compose(self, item: Item) -> JobRequest | None:
        """None while the video comes."""
        asked = item.ask or {}
        given = {"priority": "low", **self._batch.defaults, **asked["given"]}
        if "url" in asked["video"] and self._beside.downloads.waits(self._batch, self.key(item)):
            return None
        if "url" in asked["video"]:  # nothing is fetched in vain
            await detections.check(self._state, given)
        stored = await self._find_video(item, asked)
        if stored is None:
            return None
        request = await detections.compose(self._state, stored, given)
        return replace(request, owner=self._batch.owner, tags=(self._batch.tag, *request.tags))

    async def _find_video(self, item: Item, asked: Mapping[str, Any]) -> StoredVideo | None:
        """A video that came with the batch has a name, and becomes its owner's; others have to be already."""
        video = asked["video"]
        if "url" in video:
            fetched = self._beside.downloads.take(self._batch, self.key(item), video["url"])
            return await self._take_video(fetched.artifact.key, fetched.name) if fetched else None
        if "name" in asked:
            return await self._take_video(video["id"], asked["name"])
        caller = await self.caller()
        async with self._beside.looks:
            return await detections.find_video(self._state, schemas.VideoReference(**video), caller=caller)

    async def _take_video(self, key: str, name: str) -> StoredVideo:
        async with self._beside.looks:
            stored = await detections.look_at(self._state, key, name, None)
        await grants.give_owner(self._state, self._batch.owner, stored)
        return stored

    async def caller(self) -> Caller:
        """Whoever sent the batch, with the scopes that their key has by now."""
        if not self._batch.owner:
            return Caller()
        await self._state.look_at_keys()
        key = self._state.keys.get(self._batch.owner)
        active = key is not None and key.state(time.time()) == "active"
        return Caller(self._batch.owner, bool(active and key and key.is_admin))
