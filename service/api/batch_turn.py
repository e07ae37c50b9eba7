"""A batch that a feeder has claimed in; its items submitted, and what became of its jobs written down, out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from service.api import grants
from service.api.batch_items import BatchItems, Beside
from service.api.batch_records import Batch, BatchShelf, Chunk, Item
from service.api.state import ApiState
from service.errors import ArtifactNotFound, JobNotFound, ModelNotFound, TalError, Unavailable, VideoNotFound
from service.jobs.job import Job, State
from service.jobs.queue import Idempotency, JobFilter

log = logging.getLogger(__name__)
# Looks at videos are processes; each turn ends early enough for what it did to be written down.
AT_ONCE = 8
LONGEST_S, TOUCHING_S = 5.0, 1.0
# Of its lease; the rest is for writing down.
LONGEST_PART = 0.6
BUSY_S, IDLE_S, LONGEST_PAUSE_S = 0.2, 1.0, 15.0
CANCELED_CHUNKS = 50
TRIES = 3
UNFINISHED: tuple[State, ...] = ("queued", "running")


class Overtaken(Exception):  # noqa: N818
    """Another feeder has claimed the batch meanwhile; what was submitted twice is one job."""


class Turn:
    """One turn at one batch. What it changes is kept by chunk; the batch itself is written last.

    A turn that is cut off anywhere is made again: a submission has the same key then, and so gives the same job.
    """

    def __init__(self, state: ApiState, batch: Batch, beside: Beside) -> None:
        self._state, self._batch, self._beside = state, batch, beside
        self._known = beside.known
        self._asked = BatchItems(state, batch, beside)
        self._shelf = BatchShelf(state.records)
        self._kept: dict[int, Chunk] = {}
        self._chunks: dict[int, Chunk] = {}
        self._next = batch.next_chunk
        self._pause_s = IDLE_S
        self._passed: set[int] = set()  # items whose turn has not come, since their video has not
        self._began_at_s = self._claimed_at_s = time.monotonic()

    async def take(self) -> Batch:
        """Raises Overtaken, or what is Unavailable."""
        for number in self._batch.open_chunks:
            await self._open(number)
        await self._touch()
        await self._collect()
        try:
            if self._batch.state == "canceling":
                await self._cancel()
            else:
                await self._feed()
            return await self._write()
        except Overtaken:
            await self._call_back()
            raise

    async def _open(self, number: int) -> None:
        chunk = await self._state.ask(self._shelf.chunk, self._batch.id, number)
        if chunk is None:
            raise Overtaken(f"chunk {number} of batch {self._batch.id} is gone")
        self._kept[number] = self._chunks[number] = chunk
        self._next = max(self._next, number + 1)

    # What became of its jobs.

    async def _collect(self) -> None:
        under_way = {item.job_id: (number, item) for number, item in self._items() if item.state == "submitted"}
        ids = sorted(job_id for job_id in under_way if job_id)
        versions = await self._state.ask(self._state.queue.versions, ids) if ids else {}
        for job_id in ids:
            if (version := versions.get(job_id)) is not None and self._known.get(job_id) == version:
                continue
            number, item = under_way[job_id]
            try:
                job = await self._state.ask(self._state.queue.get, job_id)
            except JobNotFound as error:
                self._put(number, item.failed(error.code, f"{error}; it was deleted"))
                continue
            if job.finished:
                self._known.pop(job_id, None)
                self._put(number, ended(item, job))
            else:
                self._known[job_id] = job.version

    # What comes next.

    async def _feed(self) -> None:
        room = await self._room()
        while room > 0 and time.monotonic() < self._began_at_s + LONGEST_S:
            spots = await self._waiting(min(room, AT_ONCE))
            if not spots or not await self._submit(spots):
                return
            room -= len(spots)

    async def _room(self) -> int:
        """Batches fill half of the queue at most: the rest is for those who wait for an answer."""
        under_way = sum(item.state == "submitted" for _, item in self._items())
        stats, policy = await self._state.ask(self._state.queue.stats), self._state.queue.policy
        if stats.queued_video_s > policy.max_queued_video_s / 2:
            return 0
        free = max(1, policy.max_queued_jobs // 2) - sum(stats.queued.values())
        return min(self._state.config.batch_ahead - under_way, free)

    async def _waiting(self, most: int) -> list[tuple[int, Item]]:
        """The next items in their order; chunks are opened as they are needed."""
        while True:
            spots = [(number, item) for number, item in self._items() if self._may_go(item)][:most]
            if len(spots) == most or self._next >= self._batch.chunks:
                return spots
            await self._open(self._next)

    def _may_go(self, item: Item) -> bool:
        return item.state == "waiting" and item.number not in self._passed

    async def _submit(self, spots: Sequence[tuple[int, Item]]) -> bool:
        """Whether the next ones may follow. Videos are looked at side by side, and submitted in their order."""
        left_s = self._claimed_at_s + self._state.config.lease_s * LONGEST_PART - time.monotonic()
        composed = await self._asked.compose([item for _, item in spots], left_s)
        await self._renew()
        for (number, item), request in zip(spots, composed, strict=True):
            if request is None:
                self._passed.add(item.number)
                continue
            try:
                if isinstance(request, BaseException):
                    raise request
                key = self._asked.key(item)
                submission = await self._state.submit(request, Idempotency(key, key))
            except TalError as error:
                if not await self._refused(number, item, error):
                    return False
            except Exception as error:  # one item must not keep all others from their turn
                log.error("item %d of batch %s failed", item.number, self._batch.id, exc_info=error)
                self._put(number, item.failed(TalError.code, "the service failed; its log says why"))
            else:
                self._put(number, replace(item, state="submitted", job_id=submission.job.id))
        return True

    async def _renew(self) -> None:
        """Raises Overtaken where another has claimed the batch, or canceled it."""
        renewed = await self._state.ask(self._shelf.save, self._batch, time.time() + self._state.config.lease_s)
        if renewed is None:
            raise Overtaken(f"batch {self._batch.id}")
        self._batch, self._claimed_at_s = renewed, time.monotonic()

    async def _refused(self, number: int, item: Item, error: TalError) -> bool:
        """Whether the next ones may follow; what may pass, is asked again after a pause."""
        if isinstance(error, Unavailable) or await self._is_early(error):
            self._pause_s = max(IDLE_S, min(LONGEST_PAUSE_S, self._state.admission.pause_s))
            return False
        if error.retryable and item.tries + 1 < TRIES:
            self._put(number, replace(item, tries=item.tries + 1))
            return False
        self._put(number, item.failed(error.code, str(error)))
        return True

    async def _is_early(self, error: TalError) -> bool:
        """A model that only workers have is unknown while none lives."""
        return isinstance(error, ModelNotFound) and not await self._state.ask(self._state.queue.workers)

    # What is called off.

    async def _cancel(self) -> None:
        self._beside.stop(self._batch)
        await self._cancel_jobs()
        for number in range(self._next, min(self._batch.chunks, self._next + CANCELED_CHUNKS)):
            await self._open(number)
        for number, item in list(self._items()):
            if item.state == "waiting":
                self._put(number, item.failed("job_canceled", "the batch was canceled", "canceled"))

    async def _cancel_jobs(self) -> None:
        """Also a job that is not written down here, because a turn was cut off."""
        queue = self._state.queue
        most = 4 * self._state.config.batch_ahead
        for job in await self._state.ask(queue.find, JobFilter(UNFINISHED, tag=self._batch.tag), most):
            await self._state.ask(queue.cancel, job.id)

    async def _call_back(self) -> None:
        """What was submitted while another turn canceled the batch, and could not see it yet."""
        batch = await self._state.ask(self._shelf.peek, self._batch.record_id)
        if batch is None or batch.state in {"canceling", "canceled"}:
            await self._cancel_jobs()

    # What is kept.

    async def _touch(self) -> None:
        """Videos of items that wait are used once in a while, since retention knows only those of jobs."""
        batch, ends_at_s = self._batch, time.monotonic() + TOUCHING_S
        if time.time() < batch.touch_at_s or batch.state != "in_progress":
            return
        number = max(batch.touch_chunk, min([*batch.open_chunks, batch.next_chunk]))
        while number < batch.chunks and time.monotonic() < ends_at_s:
            await self._use_videos(number)
            number += 1
        if number >= batch.chunks:
            pause_s = self._state.config.keep_uploads_s / 4
            self._batch = replace(batch, touch_chunk=0, touch_at_s=time.time() + pause_s)
        else:
            self._batch = replace(batch, touch_chunk=number)

    async def _use_videos(self, number: int) -> None:
        """What is missing is told when its turn comes."""
        chunk = await self._state.ask(self._shelf.chunk, self._batch.id, number)
        waiting = [item.ask for item in chunk.items if item.ask and item.state == "waiting"] if chunk else []
        for asked in waiting:
            if key := asked["video"].get("id"):
                with suppress(ArtifactNotFound, VideoNotFound):
                    await self._state.ask(self._state.store.touch, "video", key)
                    if self._batch.owner and "name" not in asked:
                        await grants.require(self._state, await self._asked.caller(), key)

    async def _write(self) -> Batch:
        changed = False
        for number, chunk in self._chunks.items():
            if chunk != self._kept[number]:
                changed = True
                if await self._state.ask(self._shelf.save_chunk, chunk) is None:
                    raise Overtaken(f"batch {self._batch.id}")
        batch = self._summed()
        pause_s = BUSY_S if changed and self._pause_s <= IDLE_S else self._pause_s
        saved = await self._state.ask(self._shelf.save, batch, batch.expires_at_s or time.time() + pause_s)
        if saved is None:
            raise Overtaken(f"batch {self._batch.id}")
        return saved

    def _summed(self) -> Batch:
        """A finished batch is due again when it is to be forgotten."""
        batch, ended, counts = self._batch, Counter(self._batch.ended), Counter[str]()
        for chunk in self._chunks.values():
            (ended if chunk.ended else counts).update(chunk.counts)
        still_open = tuple(sorted(number for number, chunk in self._chunks.items() if not chunk.ended))
        batch = replace(
            batch, open_chunks=still_open, next_chunk=self._next, ended=dict(ended), counts=dict(ended + counts)
        )
        if still_open or self._next < batch.chunks:
            return batch
        state, now_s = "canceled" if batch.state == "canceling" else "completed", time.time()
        return replace(
            batch,
            state=state,  # type: ignore[arg-type]
            finished_at_s=now_s,
            expires_at_s=now_s + self._state.config.keep_jobs_s,
        )

    def _items(self) -> Iterator[tuple[int, Item]]:
        return ((number, item) for number in sorted(self._chunks) for item in self._chunks[number].items)

    def _put(self, number: int, item: Item) -> None:
        self._chunks[number] = self._chunks[number].with_item(item)


def ended(item: Item, job: Job) -> Item:
    if job.state == "succeeded":
        return replace(item, state="succeeded", ask=None)
    if job.state == "canceled":
        return item.failed("job_canceled", "the job was canceled", "canceled")
    if job.failure:
        return item.failed(job.failure.code, job.failure.message)
    return item.failed("deadline_passed", f"the job is {job.state}")
