"""Who uploaded which video in; whether a caller may name it by its id out.

Videos are stored once per content, whoever sends them, so an id alone must not open them: an owner has a grant for each
video of theirs. Ids of grants begin with the video's, so that the last owner can be told from the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.api.access import Caller
from service.api.state import ApiState
from service.errors import VideoNotFound
from service.jobs.job import StoredVideo
from service.jobs.records import Record

KIND = "grant"
TRIES = 8


@dataclass(frozen=True)
class Grant:
    """`video` is None where everybody may name it, but nobody said what it is."""

    video: StoredVideo | None
    expires_at_s: float


async def give(state: ApiState, owner: str, stored: StoredVideo) -> float:
    """Of a video that was just uploaded, or used; until when it is good."""
    return await state.ask(_give, state, owner, stored)


async def give_owner(state: ApiState, owner: str, stored: StoredVideo) -> None:
    """Where callers have keys; where none are needed, a detection has no other use for it."""
    if owner:
        await give(state, owner, stored)


async def require(state: ApiState, caller: Caller, key: str) -> Grant:
    """Renewed by this use; raises VideoNotFound for what the caller did not upload."""
    record = await state.ask(state.records.get, KIND, _id(key, caller.owner))
    if record is not None:
        stored = StoredVideo(key, record.body["name"], record.body["size_bytes"], record.body["duration_s"])
        return Grant(stored, await give(state, caller.owner, stored))
    if not caller.admin:
        raise VideoNotFound(f"no video {key} is stored here; upload it again")
    return Grant(None, _until_s(state))


async def withdraw(state: ApiState, caller: Caller, key: str) -> None:
    """An admin's withdrawal is everybody's."""
    for record in await _all(state, key):
        if caller.admin or record.id == _id(key, caller.owner):
            await state.ask(state.records.delete, KIND, record.id)


async def is_alone(state: ApiState, caller: Caller, key: str) -> bool:
    """Whether nobody is left to whom the bytes matter, once the caller's right to them is withdrawn."""
    return caller.admin or all(record.id == _id(key, caller.owner) for record in await _all(state, key))


async def _all(state: ApiState, key: str) -> list[Record]:
    return await state.ask(state.records.page, KIND, f"{key}/", None, 1000)


def _give(state: ApiState, owner: str, stored: StoredVideo) -> float:
    body = {"name": stored.name, "size_bytes": stored.size_bytes, "duration_s": stored.duration_s}
    expires_at_s = _until_s(state)
    for _ in range(TRIES):  # others may give and renew the same one
        if state.records.create(Record(KIND, _id(stored.key, owner), body, expires_at_s=expires_at_s)):
            break
        found = state.records.get(KIND, _id(stored.key, owner))
        if found and state.records.replace(Record(KIND, found.id, body, found.version, expires_at_s=expires_at_s)):
            break
    return expires_at_s


def _until_s(state: ApiState) -> float:
    return time.time() + state.config.keep_uploads_s


def _id(key: str, owner: str) -> str:
    return f"{key}/{owner or '-'}"
