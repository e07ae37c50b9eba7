"""Records in; batches, their chunks of items, and how they are found, kept and forgotten, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from service.errors import BatchNotFound, QueueFull, Unavailable
from service.jobs.job import known_fields
from service.jobs.records import Record, Records

BATCH, CHUNK = "batch", "batch_chunk"
# A feeder rewrites a whole chunk whenever something becomes of one of its items.
CHUNK_ITEMS, CHUNK_BYTES = 100, 256 * 1024
ItemState = Literal["waiting", "submitted", "succeeded", "failed", "canceled"]
ITEM_STATES: tuple[ItemState, ...] = ("waiting", "submitted", "succeeded", "failed", "canceled")
BatchState = Literal["receiving", "in_progress", "canceling", "completed", "canceled"]
MOST_TRIES = 50
MOST_UNFINISHED, RECENT = 100, 1000


@dataclass(frozen=True)
class Item:
    """One line: `ask` holds what a submission is made of, until the item has ended; `number` counts from 0."""

    number: int
    custom_id: str
    ask: Mapping[str, Any] | None = None
    state: ItemState = "waiting"
    job_id: str | None = None
    error: Mapping[str, str] | None = None
    tries: int = 0

    @property
    def ended(self) -> bool:
        return self.state not in {"waiting", "submitted"}

    def failed(self, code: str, message: str, state: ItemState = "failed") -> Item:
        return replace(self, state=state, ask=None, error={"code": code, "message": message[:2000]})


@dataclass(frozen=True)
class Chunk:
    """Neighbouring items; `owner` is the batch's."""

    batch_id: str
    number: int
    owner: str
    items: tuple[Item, ...] = ()
    version: int = 0

    @property
    def ended(self) -> bool:
        return all(item.ended for item in self.items)

    @property
    def counts(self) -> Counter[str]:
        return Counter(item.state for item in self.items)

    def with_item(self, item: Item) -> Chunk:
        return replace(self, items=tuple(item if one.number == item.number else one for one in self.items))


@dataclass(frozen=True)
class Batch:
    """A batch as it stands. Chunks from `next_chunk` on were not begun; those in `open_chunks` have not ended.

    `ended` counts the items of chunks that have; `counts` all items, as of a feeder's last turn. Videos of waiting
    items are used again from `touch_at_s` on, chunk by chunk, the next of which is `touch_chunk`.
    """

    id: str
    owner: str
    name: str
    state: BatchState
    created_at_s: float
    defaults: Mapping[str, Any] = field(default_factory=dict)
    total: int = 0
    chunks: int = 0
    open_chunks: tuple[int, ...] = ()
    next_chunk: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    finished_at_s: float | None = None
    expires_at_s: float | None = None
    touch_at_s: float = 0.0
    touch_chunk: int = 0
    version: int = 0

    @property
    def finished(self) -> bool:
        return self.state in {"completed", "canceled"}

    @property
    def record_id(self) -> str:
        return f"{prefix_of(self.owner)}{self.id}"

    @property
    def tag(self) -> str:
        return f"batch:{self.id}"


def prefix_of(owner: str | None) -> str:
    """Where the batches of an owner begin, or, without one, everybody's."""
    return "" if owner is None else f"{owner or '-'}/"


def batch_from(record: Record) -> Batch:
    known = known_fields(Batch, dict(record.body))
    return Batch(**{**known, "open_chunks": tuple(known["open_chunks"]), "version": record.version})


class BatchShelf:
    """Batches and their chunks, in records. None where a version that is not the last was to be written over."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def create(self, batch: Batch, due_at_s: float) -> Batch:
        made = self._records.create(_record(batch, due_at_s))
        if made is None:
            raise Unavailable(f"batch {batch.id} is there already; send it again")
        return replace(batch, version=made.version)

    def find(self, batch_id: str, owner: str | None) -> Batch:
        """Of this owner, or, without one, of anybody; raises BatchNotFound."""
        if owner is None:
            first = self.chunk(batch_id, 0)
            owner = first.owner if first else ""
        record = self._records.get(BATCH, f"{prefix_of(owner)}{batch_id}")
        if record is None or (batch := batch_from(record)).state == "receiving":
            raise BatchNotFound(f"no batch {batch_id[:64]!r}")
        return batch

    def peek(self, record_id: str) -> Batch | None:
        record = self._records.get(BATCH, record_id)
        return batch_from(record) if record else None

    def page(self, owner: str | None, beyond: str | None, limit: int) -> list[Batch]:
        """Newest first of an owner; everybody's are in the order of their owners."""
        found = self._records.page(BATCH, prefix_of(owner), beyond, limit, newest_first=True)
        return [batch_from(record) for record in found]

    def check_unfinished(self, owner: str) -> None:
        """Of the owner's latest; raises QueueFull where they have enough to wait for."""
        unfinished = sum(not batch.finished for batch in self.page(owner, None, RECENT))
        if unfinished >= MOST_UNFINISHED:
            raise QueueFull(f"{unfinished} of your batches have not ended; at most {MOST_UNFINISHED} may be under way")

    def due(self, limit: int) -> list[Record]:
        return self._records.due(BATCH, limit)

    def claim(self, record: Record, until_s: float) -> Batch | None:
        claimed = self._records.replace(replace(record, due_at_s=until_s))
        return batch_from(claimed) if claimed else None

    def save(self, batch: Batch, due_at_s: float | None) -> Batch | None:
        saved = self._records.replace(_record(batch, due_at_s))
        return replace(batch, version=saved.version) if saved else None

    def change(self, record_id: str, change: Callable[[Batch], Batch | None], due_at_s: float) -> Batch:
        """Made again as often as somebody else was first; None as the change leaves the batch as it is."""
        for _ in range(MOST_TRIES):
            if (batch := self.peek(record_id)) is None:
                raise BatchNotFound(f"no batch {record_id.rpartition('/')[2][:64]!r}")
            if (changed := change(batch)) is None:
                return batch
            if saved := self.save(changed, due_at_s):
                return saved
        raise Unavailable(f"batch {record_id} changes all the time; ask again")

    def chunk(self, batch_id: str, number: int) -> Chunk | None:
        record = self._records.get(CHUNK, _chunk_id(batch_id, number))
        return _chunk_from(record) if record else None

    def chunks(self, batch_id: str, beyond: int | None, limit: int) -> list[Chunk]:
        after = None if beyond is None else _chunk_id(batch_id, beyond)
        return [_chunk_from(record) for record in self._records.page(CHUNK, f"{batch_id}/", after, limit)]

    def add_chunk(self, chunk: Chunk) -> None:
        self._records.create(_chunk_record(chunk))

    def save_chunk(self, chunk: Chunk) -> Chunk | None:
        saved = self._records.replace(_chunk_record(chunk))
        return replace(chunk, version=saved.version) if saved else None

    def forget(self, batch: Batch) -> None:
        """Its chunks last to first, then itself: what is cut off on the way can be asked for again."""
        found = self._records.page(CHUNK, f"{batch.id}/", limit=100, newest_first=True)
        while found:
            for record in found:
                self._records.delete(CHUNK, record.id)
            found = self._records.page(CHUNK, f"{batch.id}/", limit=100, newest_first=True)
        self._records.delete(BATCH, batch.record_id)


def _record(batch: Batch, due_at_s: float | None) -> Record:
    body = asdict(batch)
    return Record(BATCH, batch.record_id, body, body.pop("version"), due_at_s)


def _chunk_id(batch_id: str, number: int) -> str:
    return f"{batch_id}/{number:06d}"


def _chunk_record(chunk: Chunk) -> Record:
    items = [{name: value for name, value in vars(item).items() if value is not None} for item in chunk.items]
    body = {"batch_id": chunk.batch_id, "number": chunk.number, "owner": chunk.owner, "items": items}
    return Record(CHUNK, _chunk_id(chunk.batch_id, chunk.number), body, chunk.version)


def _chunk_from(record: Record) -> Chunk:
    known = known_fields(Chunk, dict(record.body))
    items = tuple(Item(**known_fields(Item, item)) for item in known["items"])
    return Chunk(**{**known, "items": items, "version": record.version})
