"""What every queue promises of webhooks: each end of a job that has one is noticed, once, however it came."""

from __future__ import annotations

import pytest

from service.jobs.job import PRIORITIES
from service.jobs.queue import Ended, HandedBack, JobFilter, JobQueue
from tests.service.jobs.harness import BAD_VIDEO, CRASH, DONE, LEASE_S, POLICY, Harness, request, take

HOOK = "https://example.com/hook"


def lapse(harness: Harness, queue: JobQueue) -> None:
    take(queue)
    harness.pass_time(LEASE_S * 1.3)
    queue.sweep()


def cancel_running(harness: Harness, queue: JobQueue) -> None:
    claim = take(queue)
    queue.cancel(claim.job.id)
    queue.settle(claim, Ended("canceled"))


def cancel_waiting(harness: Harness, queue: JobQueue) -> None:
    queue.cancel(queue.find(JobFilter(), 1)[0].id)


def cancel_and_lapse(harness: Harness, queue: JobQueue) -> None:
    queue.cancel(take(queue).job.id)
    harness.pass_time(LEASE_S * 1.3)
    queue.sweep()


ENDS = {
    "succeeded": lambda harness, queue: queue.settle(take(queue), DONE),
    "failed": lambda harness, queue: queue.settle(take(queue), BAD_VIDEO),
    "dead after its last attempt": lambda harness, queue: queue.settle(take(queue), CRASH),
    "dead after its last worker": lapse,
    "canceled": cancel_waiting,
    "canceled while it ran": cancel_running,
    "canceled, its worker silent": cancel_and_lapse,
    "expired": lambda harness, queue: queue.sweep(),
    "expired, which a worker found": lambda harness, queue: (queue.take("w1", ("m",), PRIORITIES), queue.sweep()),
    "expired while it ran": lambda harness, queue: queue.settle(take(queue), Ended("expired")),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_job_with_a_webhook_is_noticed_once_however_it_ends(harness: Harness, end: str) -> None:
    queue = harness.open(max_attempts=1)
    deadline_at_s = harness.now_s() - 1 if end in {"expired", "expired, which a worker found"} else None
    job = queue.submit(request(webhook=HOOK, deadline_at_s=deadline_at_s)).job
    assert queue.notices() == []
    ENDS[end](harness, queue)
    assert queue.get(job.id).finished
    assert queue.get(job.id).request.webhook == HOOK
    assert queue.notices() == queue.notices() == [job.id]
    queue.noticed(job.id)
    queue.noticed(job.id)
    queue.sweep()
    queue.cancel(job.id)
    assert queue.notices() == []


def test_a_job_that_is_tried_again_is_noticed_at_its_end_alone(harness: Harness, queue: JobQueue) -> None:
    job = queue.submit(request(webhook=HOOK)).job
    for outcome in (HandedBack(), CRASH):
        queue.settle(take(queue), outcome)
        assert queue.notices() == []
        harness.pass_time(POLICY.retry_delay_s * 1.2)
    lapse(harness, queue)
    assert queue.notices() == []
    claim = take(queue)
    queue.settle(claim, DONE)
    queue.settle(claim, DONE)
    assert queue.notices() == [job.id]


def test_a_job_without_a_webhook_is_not_noticed(queue: JobQueue) -> None:
    queue.submit(request())
    queue.settle(take(queue), DONE)
    queue.cancel(queue.submit(request()).job.id)
    assert queue.notices() == []
    queue.noticed("0" * 32)


def test_the_first_to_end_is_noticed_first(harness: Harness, queue: JobQueue) -> None:
    jobs = [queue.submit(request(webhook=HOOK, model=f"m{number}")).job for number in range(4)]
    order = [2, 0, 3, 1]
    for number, outcome in zip(order, (DONE, BAD_VIDEO, Ended("expired"), Ended("canceled")), strict=True):
        queue.settle(take(queue, models=(f"m{number}",)), outcome)
        harness.pass_time(0.002)
    ended = [jobs[number].id for number in order]
    assert [queue.notices(limit) for limit in (-1, 0, 1, 3, 9)] == [[], [], ended[:1], ended[:3], ended]
    queue.noticed(ended[1])
    assert harness.open().notices() == [ended[0], *ended[2:]]


def test_the_notice_of_a_job_that_is_gone_goes_with_it(harness: Harness) -> None:
    queue = harness.open(keep_jobs_s=0.3)
    deleted, old = (queue.submit(request(webhook=HOOK)).job for _ in range(2))
    for job in (deleted, old):
        queue.cancel(job.id)
    queue.delete(deleted.id)
    assert queue.notices() == [old.id]
    harness.pass_time(0.4)
    queue.sweep()
    assert queue.notices() == []
