"""A request in; who asks, and what they may, out."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from fastapi import Request

from service.api.state import ApiState, state_of
from service.errors import Forbidden, RateLimited, Unauthenticated
from service.jobs.keys import ApiKey, Scope

BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)
# A key that is new is known after this long at most, even to a process that has just looked.
LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Caller:
    """`owner` is the id of an API key, or nothing where none are needed; whoever is `admin` sees what is others'."""

    owner: str = ""
    admin: bool = True

    @property
    def seen_owner(self) -> str | None:
        """Whose things this caller sees: None is everybody's."""
        return None if self.admin else self.owner

    def sees(self, owner: str) -> bool:
        return self.admin or owner == self.owner

    def own_key(self, idempotency_key: str | None) -> str | None:
        """As the queue knows it: none is shared by two owners, for those that callers send hold no space."""
        return f"{self.owner} {idempotency_key}" if idempotency_key and self.owner else idempotency_key


async def caller_of(request: Request, scope: Scope) -> Caller:
    """Raises Unauthenticated, Forbidden or RateLimited."""
    state = state_of(request)
    if state.config.open:
        return Caller()
    given = _given(request)
    key = await _holder(state, given)
    if not state.keys.needed:
        return Caller()
    if key is None:
        raise Unauthenticated(
            "this service needs an API key, as `Authorization: Bearer tal_...` or `X-API-Key: tal_...`"
            if given is None
            else "the API key is none that this service knows"
        )
    if (found := key.state(time.time())) != "active":
        raise Unauthenticated(f"the API key {key.id} is {found}; its holder needs a new one")
    await _take_turn(state, key)
    if not key.may(scope):
        raise Forbidden(f"this needs the scope {scope!r}, and the API key {key.id} has {', '.join(key.scopes)}")
    return Caller(key.id, key.is_admin)


def _given(request: Request) -> str | None:
    bearer = BEARER.fullmatch(request.headers.get("authorization", ""))
    return bearer[1] if bearer else request.headers.get("x-api-key")


async def _holder(state: ApiState, given: str | None) -> ApiKey | None:
    await state.look_at_keys()
    if given is None:
        return None
    if (key := state.keys.holder(given)) is None:
        await state.look_at_keys(LOOK_AGAIN_S)
        key = state.keys.holder(given)
    return key


async def _take_turn(state: ApiState, key: ApiKey) -> None:
    per_s, burst = key.allowance.requests_per_s, key.allowance.burst
    if per_s is None:
        return
    if wait_s := await state.ask(state.buckets.take, key.id, per_s, burst):
        raise RateLimited(
            f"the API key {key.id} allows {per_s:g} requests per second, and {burst} at once; "
            f"ask again in {wait_s:.1f} s",
            wait_s,
        )
