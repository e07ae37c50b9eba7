"""From the end of a job to its one message, whatever breaks in between."""

from __future__ import annotations

import threading

import pytest

from service.errors import QueueUnavailable
from service.webhooks.message import KIND
from tests.service.webhooks.desk import URL, Desk


def test_a_finished_job_becomes_one_message_that_is_due_at_once(desk: Desk) -> None:
    job = desk.queue.finish(owner="k1")
    desk.outbox().collect()
    desk.outbox().collect()
    assert [record.id for record in desk.records.page(KIND)] == [f"k1/msg_{job.id}_k1"]
    made = desk.message(job)
    assert (made.url, made.state, made.due_at_s) == (URL, "pending", desk.clock.wall_s())
    assert desk.queue.waiting == []


def test_a_crash_between_message_and_notice_makes_no_second_one_and_loses_none(desk: Desk) -> None:
    job = desk.queue.finish()
    noticed = desk.queue.noticed

    def crash(job_id: str) -> None:
        raise QueueUnavailable("away")

    desk.queue.noticed = crash  # type: ignore[method-assign]
    with pytest.raises(QueueUnavailable):
        desk.outbox().collect()
    first = desk.message(job)
    desk.queue.noticed = noticed  # type: ignore[method-assign]
    desk.clock.move(3)
    desk.outbox().collect()
    assert desk.message(job) == first
    assert desk.queue.waiting == []


def test_a_message_that_could_not_be_stored_is_made_later(desk: Desk) -> None:
    class Away:
        def create(self, record):
            raise QueueUnavailable("away")

    job = desk.queue.finish()
    with pytest.raises(QueueUnavailable):
        desk.outbox(Away()).collect()
    desk.outbox().collect()
    assert desk.message(job).state == "pending"


def test_what_was_deleted_or_has_no_webhook_is_passed_over(desk: Desk) -> None:
    gone, plain, told = desk.queue.finish(), desk.queue.finish(None), desk.queue.finish()
    del desk.queue.jobs[gone.id]
    desk.outbox().collect()
    assert [record.body["job_id"] for record in desk.records.page(KIND)] == [told.id]
    assert desk.queue.waiting == []
    assert plain.request.webhook is None


def test_several_outboxes_at_once_make_one_message_of_each_job(desk: Desk) -> None:
    for _ in range(20):
        desk.queue.finish()
    threads = [threading.Thread(target=desk.outbox().collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.records.page(KIND)) == 20
