"""A store that is slow, or far away: leases are renewed meanwhile, and a job that nobody wants ends at once."""

from __future__ import annotations

import time

import pytest

from tests.service.worker.worker_process import LEASE_S
from tests.service.worker.workplace import Workplace, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def worker(place):
    with place.worker(stall_s=2.0) as worker:
        yield worker


def test_a_video_that_is_long_in_coming_costs_no_lease_and_no_process(place, worker):
    with place.trouble("store"):
        job = place.submit("plain")
        taken_s = time.monotonic()
        place.await_state(job, "running")
        wait_until(lambda: time.monotonic() - taken_s > 2 * LEASE_S + 0.5)
        assert worker.probe("/readyz")[0] == 200
        assert place.queue.get(job.id).state == "running"
    ended = place.await_end(job)
    assert (ended.state, ended.delivery, place.runs(job)) == ("succeeded", 1, 1)
    assert worker.restarts("stall") == 0


def test_a_job_is_canceled_while_its_video_is_awaited_and_the_next_one_runs(place, worker):
    child = worker.child.pid
    with place.trouble("store"):
        job = place.submit("plain")
        place.await_state(job, "running")
        place.queue.cancel(job.id)
        assert place.await_end(job).state == "canceled"
    assert place.await_end(place.submit("plain")).state == "succeeded"
    assert worker.child.pid == child
