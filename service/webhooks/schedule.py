"""A message and what came of an attempt to send it in; when it is tried again, or that it no longer is, out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime

from service.webhooks.message import Attempt, Message

GONE = 410
# After each failed attempt at most this long, by the advice of Standard Webhooks: 5 s to a day, three days in all.
PAUSES_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
LONGEST_PAUSE_S = 86_400.0


@dataclass(frozen=True)
class Sent:
    """`denied` is what may not be sent at all; `retry_after` is the receiver's, as it came."""

    attempt: Attempt
    denied: bool = False
    retry_after: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.attempt.status is not None and 200 <= self.attempt.status < 300

    @property
    def final(self) -> bool:
        return self.denied or self.attempt.status == GONE


@dataclass(frozen=True)
class Schedule:
    """`chance` draws from 0 to 1: anything up to the whole pause, so that not all who failed together come together."""

    chance: Callable[[], float] = random.random
    pauses_s: tuple[float, ...] = PAUSES_S
    longest_pause_s: float = LONGEST_PAUSE_S

    def after(self, message: Message, sent: Sent, now_s: float) -> Message:
        tried = replace(message.tried(sent.attempt), tries=message.tries + 1, due_at_s=None)
        if sent.succeeded:
            return replace(tried, state="delivered")
        if sent.final or message.tries >= len(self.pauses_s):
            return replace(tried, state="given_up")
        asked_s = min(pause_s(sent.retry_after, now_s), self.longest_pause_s)
        return replace(tried, due_at_s=now_s + max(asked_s, self.chance() * self.pauses_s[message.tries]))


def pause_s(retry_after: str | None, now_s: float) -> float:
    """Seconds, or a date, as RFC 9110 has it; what is neither asks for nothing."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0
