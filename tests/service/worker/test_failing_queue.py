"""A queue that does not answer or has a defect: the worker goes on with what it has, says so, and recovers."""

from __future__ import annotations

import re

import pytest

from tests.service.worker.workplace import Workplace, wait_until


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def worker(place):
    with place.worker() as worker:
        yield worker


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unavailable", "defect"])
def test_work_goes_on_while_the_queue_fails_and_its_result_is_committed(place, worker, kind):
    job = place.submit("slow-0.8")
    place.await_stage(job)
    with place.trouble(kind):
        wait_until(lambda: f"{job.id}: its outcome is not taken yet" in worker.log)
    ended = place.await_end(job)
    assert (ended.state, ended.delivery, place.runs(job)) == ("succeeded", 1, 1)
    assert ("a defect of the queue" in worker.log.split(job.id, 1)[1]) == (kind == "defect")
    assert place.await_end(place.submit("next")).state == "succeeded"


@pytest.mark.slow
def test_an_idle_worker_outlives_a_queue_that_fails_and_says_so(place, worker):
    with place.trouble("defect"):
        wait_until(lambda: worker.probe("/readyz") == (503, "the queue does not answer\n"))
        assert worker.metric("tal_queue_up") == 0
        assert worker.probe("/livez")[0] == 200
        assert "tal_model_info{" in worker.probe("/metrics")[1]
    wait_until(lambda: worker.probe("/readyz")[0] == 200)
    assert worker.metric("tal_queue_up") == 1
    assert place.await_end(place.submit()).state == "succeeded"


@pytest.mark.slow
def test_a_queue_that_hangs_is_told_as_such_and_makes_no_job_look_stalled(tmp_path):
    place = Workplace(tmp_path)
    with place.worker("hung", stall_s=2.0, longest_turn_s=2.5) as worker:
        job = place.submit("slow-5")
        place.await_stage(job)
        assert worker.probe("/livez")[0] == 200
        with place.trouble("hang"):
            status, told = wait_until(lambda: answer if (answer := worker.probe("/livez"))[0] != 200 else None)
        assert (status, re.match(r"no turn for \d+ s", told) is not None) == (503, True)
        wait_until(lambda: worker.probe("/livez")[0] == 200)
        ended = place.await_end(job)
        assert (ended.state, ended.attempts, worker.restarts("stall")) == ("succeeded", 1, 0)


@pytest.mark.slow
def test_a_worker_with_an_outcome_that_nobody_takes_ends_at_the_second_signal(tmp_path):
    place = Workplace(tmp_path)
    with place.worker("second") as worker:
        job = place.submit("slow-0.5")
        place.await_stage(job)
        with place.trouble("unavailable"):
            wait_until(lambda: f"{job.id}: its outcome is not taken yet" in worker.log)
            worker.process.terminate()
            wait_until(lambda: "draining" in worker.log)
            assert worker.process.poll() is None
            worker.process.terminate()
            assert worker.await_end() == 0
