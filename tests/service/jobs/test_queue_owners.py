"""What every queue promises the owners of jobs: to each its own jobs, and so much video that may wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.errors import QueueFull
from service.jobs.queue import HandedBack, Idempotency, JobFilter, JobQueue
from tests.service.jobs.harness import CRASH, DONE, Harness, request, take


def test_an_owner_may_have_only_so_much_video_waiting(queue: JobQueue) -> None:
    owned = request(owner="k1")
    for _ in range(2):
        queue.submit(owned, owner_video_s=25.0)
    with pytest.raises(QueueFull, match=r"20 s of the caller's video wait already.* 10 s .* 25 s"):
        queue.submit(owned, owner_video_s=25.0)
    queue.submit(request(owner="k1", video_s=5.0), owner_video_s=25.0)
    queue.submit(request(owner="k2"), owner_video_s=25.0)
    queue.submit(request())
    queue.submit(owned)
    with pytest.raises(QueueFull):
        queue.submit(request(owner="k1", video_s=0.1), owner_video_s=25.0)


def test_who_names_no_owner_has_no_limit_of_its_own(queue: JobQueue) -> None:
    for _ in range(3):
        queue.submit(request(), owner_video_s=1.0)


def test_an_owner_over_its_limit_gets_the_job_that_its_key_stands_for(queue: JobQueue) -> None:
    first = queue.submit(request(owner="k1"), Idempotency("k", "f"), owner_video_s=10.0)
    assert queue.submit(request(owner="k1"), Idempotency("k", "f"), owner_video_s=10.0).job == first.job


LEAVE_THE_LINE = {
    "taken": lambda harness, queue, job: take(queue),
    "canceled": lambda harness, queue, job: queue.cancel(job.id),
    "expired": lambda harness, queue, job: queue.sweep(),
    "done": lambda harness, queue, job: queue.settle(take(queue), DONE),
}


@pytest.mark.parametrize("way", LEAVE_THE_LINE)
def test_what_no_longer_waits_no_longer_counts_against_its_owner(harness: Harness, queue: JobQueue, way: str) -> None:
    deadline_at_s = harness.now_s() - 1 if way == "expired" else None
    job = queue.submit(request(owner="k1", deadline_at_s=deadline_at_s), owner_video_s=10.0).job
    LEAVE_THE_LINE[way](harness, queue, job)
    queue.submit(request(owner="k1"), owner_video_s=10.0)


def test_what_waits_again_counts_against_its_owner_again(queue: JobQueue) -> None:
    owned = request(owner="k1")
    for outcome in (HandedBack(), CRASH):
        queue.submit(owned)
        queue.settle(take(queue), outcome)
        with pytest.raises(QueueFull):
            queue.submit(owned, owner_video_s=10.0)


def test_many_callers_at_once_do_not_get_past_the_limit_of_their_owner(queue: JobQueue) -> None:
    def accepted(_: int) -> bool:
        try:
            queue.submit(request(owner="k1"), owner_video_s=50.0)
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(accepted, range(40))) == 5


def test_jobs_are_found_by_owner_together_with_state_model_and_tag(queue: JobQueue) -> None:
    wanted = {"owner": "k1", "model": "n", "tags": ("x", "y")}
    ids = {}
    for name, changes in (
        ("canceled", {}),
        ("all", {}),
        ("model", {"model": "m"}),
        ("tag", {"tags": ("y",)}),
        ("owner", {"owner": "k2"}),
        ("none", {"owner": ""}),
    ):
        job = queue.submit(request(**{**wanted, **changes})).job
        ids[job.id] = name
        assert queue.get(job.id).request == job.request
    queue.cancel(next(iter(ids)))

    def found(**wanted: Any) -> set[str]:
        return {ids[job.id] for job in queue.find(JobFilter(**wanted), 10)}

    assert found() == set(ids.values())
    assert found(owner="k1") == {"canceled", "all", "model", "tag"}
    assert found(owner="k1", states=("queued",)) == {"all", "model", "tag"}
    assert found(owner="k1", model="n") == {"canceled", "all", "tag"}
    assert found(owner="k1", tag="x") == {"canceled", "all", "model"}
    assert found(owner="k1", tag="x", model="n", states=("queued",)) == {"all"}
    assert found(owner="k2", tag="x", model="n", states=("queued",)) == {"owner"}
    assert found(owner="k3") == found(owner="") == found(owner="k") == set()


def test_the_jobs_of_an_owner_come_newest_first_and_page_by_page(queue: JobQueue) -> None:
    ids = []
    for number in range(5):
        ids.append(queue.submit(request(owner="k1", tags=("x",))).job.id)
        queue.submit(request(owner="k2", tags=("x",)))
        if number % 2:
            queue.cancel(ids[-1])
    pages, before, newest = [], None, sorted(ids, reverse=True)
    while page := queue.find(JobFilter(owner="k1", tag="x"), 2, before):
        pages.append([job.id for job in page])
        before = page[-1].id
    assert pages == [newest[:2], newest[2:4], newest[4:]]


@pytest.mark.parametrize("tag", ["\x01k1\x01", "\x01k1\x01=x", "=k1", "k1", "\x01webhook"])
def test_no_tag_gets_at_the_jobs_of_another_owner(queue: JobQueue, tag: str) -> None:
    queue.submit(request(owner="k1", tags=("x",)))
    assert queue.find(JobFilter(owner="k2", tag=tag), 10) == []
