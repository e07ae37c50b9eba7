"""When a message is tried again, and when it no longer is."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from service.webhooks.message import KEEP_S, Attempt, Message
from service.webhooks.schedule import LONGEST_PAUSE_S, PAUSES_S, Schedule, Sent, pause_s

NOW_S = 1_800_000_000.0
MESSAGE = Message("msg_" + "0" * 32, "0" * 32, "https://a.example", {}, NOW_S, NOW_S + KEEP_S, NOW_S)


def failed(status: int | None = 500, retry_after: str | None = None) -> Sent:
    return Sent(Attempt(NOW_S, status), retry_after=retry_after)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_what_was_received_is_not_sent_again(status: int) -> None:
    after = Schedule().after(MESSAGE, failed(status), NOW_S)
    assert (after.state, after.due_at_s, len(after.attempts)) == ("delivered", None, 1)


@pytest.mark.parametrize("status", [None, 199, 302, 400, 404, 429, 500, 503])
def test_everything_else_is_tried_again_within_five_seconds(status: int | None) -> None:
    after = Schedule(chance=lambda: 0.5).after(MESSAGE, failed(status), NOW_S)
    assert (after.state, after.due_at_s) == ("pending", NOW_S + 2.5)


def test_pauses_grow_over_days_and_then_it_is_given_up() -> None:
    message, now_s, schedule = MESSAGE, NOW_S, Schedule(chance=lambda: 1.0)
    pauses = []
    while message.state == "pending":
        message = schedule.after(message, Sent(Attempt(now_s, 500)), now_s)
        if message.due_at_s is not None:
            pauses.append(message.due_at_s - now_s)
            now_s = message.due_at_s
            assert message.expires_at_s > now_s
    assert tuple(pauses) == PAUSES_S
    assert 3 < sum(pauses) / 86400 < 4
    assert (message.state, message.due_at_s, len(message.attempts)) == ("given_up", None, len(PAUSES_S) + 1)
    assert message.expires_at_s == now_s + KEEP_S


def test_who_failed_together_does_not_come_back_together() -> None:
    due = {Schedule().after(MESSAGE, failed(), NOW_S).due_at_s for _ in range(50)}
    assert len(due) == 50
    assert all(moment is not None and NOW_S <= moment <= NOW_S + PAUSES_S[0] for moment in due)


def test_a_receiver_that_is_gone_or_denied_is_given_up_at_once() -> None:
    assert Schedule().after(MESSAGE, failed(410), NOW_S).state == "given_up"
    assert Schedule().after(MESSAGE, Sent(Attempt(NOW_S, error="no"), denied=True), NOW_S).state == "given_up"


def test_a_receiver_may_ask_for_more_time_and_for_no_less() -> None:
    schedule = Schedule(chance=lambda: 1.0)
    for asked, pause in (("120", 120.0), ("0", 5.0), ("99999999999999999999", LONGEST_PAUSE_S), (None, 5.0)):
        assert schedule.after(MESSAGE, failed(503, asked), NOW_S).due_at_s == NOW_S + pause


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17", 17.0),
        (" 17 ", 17.0),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("Thu, 99 Jan 2026 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 99999 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", 0.0),
        ("Mon, 01 Jan 2024 99999999999999999999:00:00 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_the_time_asked_for_is_seconds_or_a_date(text: str, seconds: float) -> None:
    assert pause_s(text, NOW_S) == seconds
