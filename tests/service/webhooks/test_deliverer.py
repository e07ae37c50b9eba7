"""Receivers of every kind: each message is delivered or given up as it is documented, and none holds another."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from service.egress.requests import Answer, UrlDeniedError, UrlFailedError
from service.errors import QueueUnavailable
from service.jobs.sqlite_records import SqliteRecords
from service.webhooks import deliverer as rounds
from service.webhooks.deliverer import Terms
from service.webhooks.message import KIND, message_of, read, write
from service.webhooks.schedule import PAUSES_S
from service.webhooks.signing import Signer
from tests.service.jobs.harness import at_once, wait_until
from tests.service.webhooks.desk import SECRET, Desk, Posted

NEXT = "whsec_" + "Qk" * 16


def answers(*statuses: int):
    left = list(statuses)
    return lambda _: Answer(left.pop(0))


def run_to_the_end(desk: Desk) -> None:
    """Rounds of one deliverer, with as much time between as the messages wait."""
    deliverer = desk.deliverer()
    deliverer.run_once()
    while waiting := [one.due_at_s for one in desk.records.page(KIND) if one.due_at_s is not None]:
        desk.clock.move(max(0.0, min(waiting) - desk.clock.wall_s()))
        deliverer.run_once()


def test_a_receiver_that_fails_once_is_asked_again_and_then_no_more(desk: Desk) -> None:
    job = desk.queue.finish()
    desk.receivers.reply = answers(500, 200)
    run_to_the_end(desk)
    desk.clock.move(86400)
    desk.deliverer().run_once()
    first, second = desk.receivers.posted
    assert (first.url, first.body, first.headers["webhook-id"]) == (
        second.url,
        second.body,
        second.headers["webhook-id"],
    )
    assert second.at_s - first.at_s == PAUSES_S[0]
    for posted in (first, second):
        assert posted.headers == {
            "content-type": "application/json",
            **Signer([SECRET]).headers(f"msg_{job.id}", posted.at_s, posted.body),
        }
    assert desk.message(job).state == "delivered"
    assert desk.seen(job) == [500, 200]
    assert desk.outcomes == ["retried", "delivered"]


def test_a_receiver_that_is_down_for_an_hour_gets_everything(desk: Desk) -> None:
    up_at_s = desk.clock.wall_s() + 3600

    def reply(posted: Posted) -> Answer:
        if posted.at_s < up_at_s:
            raise UrlFailedError("nobody listens at receiver.example")
        return Answer(200)

    jobs = [desk.queue.finish() for _ in range(3)]
    desk.receivers.reply = reply
    run_to_the_end(desk)
    for job in jobs:
        assert desk.message(job).state == "delivered"
        assert desk.seen(job) == ["nobody listens at receiver.example"] * 4 + [200]


def test_a_receiver_that_never_answers_is_given_up_after_days(desk: Desk) -> None:
    job = desk.queue.finish()
    desk.receivers.reply = lambda _: Answer(503)
    began_s = desk.clock.wall_s()
    run_to_the_end(desk)
    assert desk.message(job).state == "given_up"
    assert len(desk.receivers.posted) == len(PAUSES_S) + 1
    assert desk.clock.wall_s() - began_s == sum(PAUSES_S)
    assert desk.outcomes == ["retried"] * len(PAUSES_S) + ["given_up"]


def test_gone_and_denied_are_given_up_at_once_and_a_redirect_is_a_failure(desk: Desk) -> None:
    def reply(posted: Posted) -> Answer:
        if "denied" in posted.url:
            raise UrlDeniedError("10.0.0.1 is a private address")
        return Answer(302) if "redirect" in posted.url else Answer(410)

    gone, denied, redirect = (desk.queue.finish(f"https://{name}.example") for name in ("gone", "denied", "redirect"))
    desk.receivers.reply = reply
    desk.deliverer().run_once()
    assert (desk.message(gone).state, desk.seen(gone)) == ("given_up", [410])
    assert (desk.message(denied).state, desk.seen(denied)) == ("given_up", ["10.0.0.1 is a private address"])
    assert (desk.message(redirect).state, desk.seen(redirect)) == ("pending", [302])
    assert desk.message(redirect).attempts[0].error == "a redirect, which is not followed"
    assert len(desk.receivers.posted) == 3


def test_a_receiver_that_asks_for_time_gets_it(desk: Desk) -> None:
    job = desk.queue.finish()
    desk.receivers.reply = lambda _: Answer(429, retry_after="1000")
    desk.deliverer().run_once()
    assert desk.message(job).due_at_s == desk.clock.wall_s() + 1000


def test_while_secrets_change_both_sign(desk: Desk) -> None:
    desk.queue.finish()
    desk.deliverer(secrets=(NEXT, SECRET)).run_once()
    (posted,) = desk.receivers.posted
    given = posted.headers["webhook-signature"].split(" ")
    for secret, signature in zip((NEXT, SECRET), given, strict=True):
        alone = Signer([secret]).headers(posted.headers["webhook-id"], posted.at_s, posted.body)
        assert alone["webhook-signature"] == signature


def test_a_receiver_that_hangs_holds_nobody_else(desk: Desk) -> None:
    released = threading.Event()

    def reply(posted: Posted) -> Answer:
        if "hangs" in posted.url:
            assert released.wait(20)
            raise UrlFailedError("no answer within 15 s")
        return Answer(200)

    hanging = [desk.queue.finish("https://hangs.example") for _ in range(10)]
    well = [desk.queue.finish(f"https://well{number % 3}.example") for number in range(30)]
    desk.receivers.reply = reply
    stop, deliverer = threading.Event(), desk.deliverer(terms=Terms(at_once=8, per_host=2))
    thread = threading.Thread(target=deliverer.run_forever, args=(stop, 0.01))
    thread.start()
    try:
        wait_until(lambda: all(desk.message(job).state == "delivered" for job in well if desk.queue.waiting == []))
        wait_until(lambda: sum("hangs" in posted.url for posted in desk.receivers.posted) == 2)
        assert [desk.message(job).state for job in hanging] == ["pending"] * 10
    finally:
        stop.set()
        released.set()
        thread.join(20)
    assert not thread.is_alive()
    assert sum(len(desk.seen(job)) for job in hanging) == len(
        [one for one in desk.receivers.posted if "hangs" in one.url]
    )


def test_a_crowd_of_messages_to_a_host_that_hangs_makes_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "LOOK", 5)
    monkeypatch.setattr("service.webhooks.lanes.STUCK_S", 0.0)
    released = threading.Event()

    def reply(posted: Posted) -> Answer:
        if "hangs" in posted.url:
            assert released.wait(20)
        return Answer(200)

    for number in range(12):
        desk.records.create(write(_message(desk, f"https://hangs.example/{number}")))
    desk.clock.move(1)
    last = _message(desk, "https://well.example")
    desk.records.create(write(last))
    desk.receivers.reply = reply
    stop, deliverer = threading.Event(), desk.deliverer(terms=Terms(per_host=1))
    thread = threading.Thread(target=deliverer.run_forever, args=(stop, 0.01))
    thread.start()
    try:
        wait_until(lambda: any("well" in posted.url for posted in desk.receivers.posted))
        assert sum("hangs" in posted.url for posted in desk.receivers.posted) == 1
    finally:
        stop.set()
        released.set()
        thread.join(20)


def _message(desk: Desk, url: str):
    return message_of(desk.queue.finish(None), url, {}, desk.clock.wall_s())


def test_two_deliverers_make_one_attempt_where_one_is_due(desk: Desk) -> None:
    jobs = [desk.queue.finish(f"https://host{number}.example") for number in range(25)]
    desk.outbox().collect()
    both = threading.Barrier(2)

    def deliver(deliverer) -> None:
        both.wait(20)
        deliverer.run_once()

    other = SqliteRecords(desk.folder / "jobs.sqlite", desk.clock)
    deliverers = (desk.deliverer(), desk.deliverer(records=other))
    threads = [threading.Thread(target=deliver, args=(one,)) for one in deliverers]
    with at_once(threads):
        pass
    other.close()
    assert sorted(posted.headers["webhook-id"] for posted in desk.receivers.posted) == sorted(
        f"msg_{job.id}" for job in jobs
    )


def test_what_a_deliverer_had_begun_when_it_died_is_sent_again_under_the_same_id(desk: Desk) -> None:
    class Dying:
        """Takes a message, and never writes again."""

        def __init__(self, records) -> None:
            self.due, self.create, self.get, self._records, self._writes = (
                records.due,
                records.create,
                records.get,
                records,
                0,
            )

        def replace(self, record):
            self._writes += 1
            if self._writes > 1:
                raise QueueUnavailable("away")
            return self._records.replace(record)

    job = desk.queue.finish()
    desk.deliverer(records=Dying(desk.records)).run_once()
    desk.deliverer().run_once()
    assert len(desk.receivers.posted) == 1
    assert desk.seen(job) == []
    desk.clock.move(Terms().lease_s)
    desk.deliverer().run_once()
    first, again = desk.receivers.posted
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert desk.message(job).state == "delivered"


def test_what_is_asked_for_again_during_an_attempt_is_sent_once_more(desk: Desk) -> None:
    job = desk.queue.finish()

    def reply(posted: Posted) -> Answer:
        if len(desk.receivers.posted) == 1:
            assert desk.records.replace(write(desk.message(job).again(desk.clock.wall_s())))
        return Answer(200)

    desk.receivers.reply = reply
    desk.deliverer().run_once()
    assert (desk.message(job).state, desk.seen(job)) == ("pending", [200])
    desk.deliverer().run_once()
    assert (desk.message(job).state, desk.seen(job)) == ("delivered", [200, 200])


def test_a_message_that_is_removed_during_an_attempt_stays_away(desk: Desk) -> None:
    job = desk.queue.finish()

    def reply(_: Posted) -> Answer:
        desk.records.delete(KIND, write(desk.message(job)).id)
        return Answer(200)

    desk.receivers.reply = reply
    desk.deliverer().run_once()
    assert desk.records.page(KIND) == []


def test_a_defect_in_sending_is_a_failed_attempt(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def reply(_: Posted) -> Answer:
        raise ZeroDivisionError

    job = desk.queue.finish()
    desk.receivers.reply = reply
    desk.deliverer().run_once()
    assert desk.seen(job) == ["the service failed; its log says why"]
    assert desk.message(job).state == "pending"
    assert "ZeroDivisionError" in caplog.text


def test_while_the_records_are_away_messages_wait(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    job, due = desk.queue.finish(), desk.records.due
    stop, deliverer = threading.Event(), desk.deliverer()

    def away(kind, limit=100):
        raise QueueUnavailable("the file does not answer")

    desk.records.due = away  # type: ignore[method-assign]
    thread = threading.Thread(target=deliverer.run_forever, args=(stop, 0.01))
    thread.start()
    try:
        wait_until(lambda: "webhooks wait: the file does not answer" in caplog.text)
        assert desk.receivers.posted == []
        desk.records.due = due  # type: ignore[method-assign]
        wait_until(lambda: desk.message(job).state == "delivered")
    finally:
        stop.set()
        thread.join(20)


def test_a_message_of_a_later_moment_is_left_alone(desk: Desk) -> None:
    made = replace(_message(desk, "https://a.example"), due_at_s=desk.clock.wall_s() + 10)
    desk.records.create(write(made))
    desk.deliverer().run_once()
    assert desk.receivers.posted == []
    desk.clock.move(10)
    desk.deliverer().run_once()
    (record,) = desk.records.page(KIND)
    assert read(record).state == "delivered"
