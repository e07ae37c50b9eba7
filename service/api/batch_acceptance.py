"""A batch that somebody wants in; whether it may come, and which batch theirs is once it has come, out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any

from service.api.access import Caller
from service.api.batch_records import Batch, BatchShelf, prefix_of
from service.api.state import ApiState
from service.errors import BatchNotFound, IdempotencyMismatch, QueueFull, UploadTimeout
from service.jobs.records import Record

KEY = "batch_key"
# A body that has not come by then is given up, and what was kept of it is removed.
RECEIVE_S = 86400.0


@dataclass(frozen=True)
class Asked:
    """What a request wants of a batch, besides its items; `key` makes it safe to repeat."""

    caller: Caller
    key: str | None
    name: str
    wanted: dict[str, Any]

    def fingerprint(self, digest: str) -> str:
        asked = json.dumps([digest, self.name, self.wanted], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


async def admit(state: ApiState, asked: Asked) -> None:
    """Who only asks again, under a key, is not kept out by what is under way."""
    try:
        await state.admit(None)
        await state.ask(BatchShelf(state.records).check_unfinished, asked.caller.owner)
    except QueueFull:
        if asked.key is None:
            raise
        if await state.ask(state.records.get, KEY, _key_id(asked.caller.owner, asked.key)) is None:
            raise


def _key_id(owner: str, key: str) -> str:
    return f"{prefix_of(owner)}{hashlib.sha256(key.encode()).hexdigest()}"


def accept(state: ApiState, batch: Batch, asked: Asked, digest: str) -> tuple[Batch, bool]:
    """The batch in progress, or the earlier one of the same key. Whatever is cut off on the way can be asked again."""
    records, shelf = state.records, BatchShelf(state.records)
    if shelf.save(batch, batch.created_at_s + RECEIVE_S) is None:
        raise UploadTimeout(f"the body did not come within {RECEIVE_S:.0f} s")
    if asked.key is None:
        return _begin(shelf, batch.record_id), False
    key = _key_id(batch.owner, asked.key)
    body = {"fingerprint": asked.fingerprint(digest), "batch": batch.record_id}
    ours = Record(KEY, key, body, expires_at_s=time.time() + state.queue.policy.keep_idempotency_s)
    while records.create(ours) is None:
        earlier = records.get(KEY, key)
        if earlier is None:
            continue
        if earlier.body["fingerprint"] != body["fingerprint"]:
            shelf.forget(batch)
            raise IdempotencyMismatch(
                f"the idempotency key {asked.key[:50]!r} was used before, for another batch; take a new key"
            )
        try:
            kept = _begin(shelf, earlier.body["batch"])
        except BatchNotFound:  # it was deleted since
            if records.replace(replace(ours, version=earlier.version)):
                break
            continue
        shelf.forget(batch)
        return kept, True
    return _begin(shelf, batch.record_id), False


def _begin(shelf: BatchShelf, record_id: str) -> Batch:
    def begun(batch: Batch) -> Batch | None:
        return replace(batch, state="in_progress") if batch.state == "receiving" else None

    return shelf.change(record_id, begun, time.time())
