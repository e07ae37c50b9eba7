"""A worker and its jobs, the good and the bad: each ends as its caller is told, and the worker goes on."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time

import psutil
import pytest

from service.jobs.queue import StoredResult, Succeeded
from tests.service.worker.faulty_child import NONSENSE
from tests.service.worker.worker_process import LEASE_S
from tests.service.worker.workplace import Worker, Workplace, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def worker(place):
    with place.worker(stall_s=2.0, memory_mib=700) as worker:
        yield worker


@pytest.fixture(autouse=True)
def _goes_on(place: Workplace, worker: Worker):
    yield
    after = place.await_end(place.submit("afterwards"))
    assert (after.state, after.attempts) == ("succeeded", 1), worker.log


def test_a_job_succeeds_and_tells_its_progress(place, worker):
    job = place.submit("clip.mp4", clip=place.add_clip(40))
    assert place.await_end(job).state == "succeeded"
    events = place.queue.events(job.id)
    assert [event.data["state"] for event in events if event.kind == "state"] == ["queued", "running", "succeeded"]
    stages = [event.data["stage"] for event in events if event.kind == "progress"]
    assert stages[0] == "model"
    assert {"probe", "decode"} <= set(stages)
    document = place.document(job)
    assert document["id"] == job.id
    assert document["video"]["name"] == "clip.mp4"
    assert document["video"]["sha256"] == job.request.video.key
    assert document["segments"]
    assert worker.metric('tal_jobs_total{model="bright",priority="normal",status="succeeded"}') > 0
    assert worker.metric('tal_frames_decoded_total{backend="pyav"}') >= 40


def test_a_long_result_goes_through_the_store(place, worker):
    job = place.submit("big-70000")
    assert place.await_end(job).state == "succeeded"
    assert place.queue.result(job.id).key is not None
    assert len(place.document(job)["padding"]) == 70000


def test_a_second_job_on_the_same_video_starts_no_decoder(place, worker):
    clip, hits = place.add_clip(30), worker.metric('tal_feature_cache_requests_total{result="hit"}')
    first = place.submit("first", clip=clip)
    assert place.await_end(first).state == "succeeded"
    second = place.submit("undecoded", clip=clip)
    assert place.await_end(second).state == "succeeded"
    assert place.document(second)["segments"] == place.document(first)["segments"]
    assert worker.metric('tal_feature_cache_requests_total{result="hit"}') == hits + 1


def test_a_model_process_that_is_killed_costs_one_attempt(place, worker):
    before, job = worker.restarts("crash"), place.submit("slow-1")
    place.await_stage(job)
    worker.child.kill()
    ended = place.await_end(job)
    assert (ended.state, ended.attempts, ended.delivery) == ("succeeded", 2, 2)
    assert worker.restarts("crash") == before + 1
    assert worker.metric("tal_job_redeliveries_total") >= 1


def test_a_cancel_is_heeded_by_the_process_and_costs_no_restart(place, worker):
    child, job = worker.child, place.submit("slow-60")
    place.await_stage(job)
    asked_s = time.monotonic()
    place.queue.cancel(job.id)
    assert place.await_end(job).state == "canceled"
    assert time.monotonic() - asked_s < 2.0
    assert worker.child == child


@pytest.mark.slow
def test_a_cancel_that_is_not_heeded_kills_the_process_after_two_seconds(place, worker):
    before, job = worker.restarts("cancel"), place.submit("deaf-60")
    place.await_stage(job)
    asked_s = time.monotonic()
    place.queue.cancel(job.id)
    assert place.await_end(job).state == "canceled"
    assert 2.0 <= time.monotonic() - asked_s < 6.0
    assert worker.restarts("cancel") == before + 1


def test_a_job_ends_at_its_timeout_and_is_not_tried_again(place, worker):
    job = place.submit("slow-60", timeout_s=0.3)
    ended = place.await_end(job)
    assert (ended.state, ended.attempts, ended.failure.code) == ("failed", 1, "job_timeout")
    assert "0.3 s" in ended.failure.message


def test_a_result_that_comes_right_after_the_timeout_counts(place, worker):
    job = place.submit("late-1", timeout_s=0.5)
    place.await_stage(job)
    assert place.await_end(job).state == "succeeded"
    assert "is stopped: timeout" in worker.log.split(job.id, 1)[1]


def test_a_job_expires_at_its_deadline_while_it_runs(place, worker):
    job = place.submit("slow-60", deadline_at_s=time.time() + 1.0)
    place.await_stage(job)
    ended = place.await_end(job)
    assert (ended.state, ended.failure.code) == ("expired", "deadline_passed")


@pytest.mark.slow
def test_a_process_without_progress_is_killed_and_its_job_done_by_the_next(place, worker):
    before, job = worker.restarts("stall"), place.submit("silent-60")
    ended = place.await_end(job)
    assert (ended.state, ended.attempts) == ("succeeded", 2)
    failure = place.failures(job)[0]
    assert failure["code"] == "worker_stalled"
    assert "no progress for 2 s" in failure["message"]
    assert worker.restarts("stall") == before + 1


@pytest.mark.slow
def test_a_process_that_grows_beyond_its_bound_is_killed_and_its_job_done_by_the_next(place, worker):
    before, job = worker.restarts("oom"), place.submit("grow-1024")
    ended = place.await_end(job)
    assert (ended.state, ended.attempts) == ("succeeded", 2)
    failure = place.failures(job)[0]
    assert failure["code"] == "worker_out_of_memory"
    assert "allowed are 700 MiB" in failure["message"]
    assert worker.restarts("oom") == before + 1


@pytest.mark.slow
def test_a_job_that_holds_the_interpreter_for_longer_than_a_lease_runs_once(place, worker):
    job = place.submit(f"gil-{1.8 * LEASE_S}")
    place.await_state(job, "running")
    while not (ended := place.queue.get(job.id)).finished:
        assert place.queue.take("rival", ["bright"], ["normal"]) is None
        time.sleep(0.02)
    assert (ended.state, ended.delivery, place.runs(job)) == ("succeeded", 1, 1)


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_put_aside_while_others_go_on(place, worker):
    poison = place.submit("die-always")
    others = [place.submit(f"other {number}") for number in range(4)]
    ended = place.await_end(poison)
    assert (ended.state, ended.attempts, ended.dead_letter) == ("failed", 3, True)
    assert (ended.failure.code, "SIGSEGV" in ended.failure.message) == ("worker_crashed", True)
    assert [(other := place.await_end(job)).state + str(other.attempts) for job in others] == ["succeeded1"] * 4
    assert worker.metric("tal_dead_letters") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("which", ["text", "deep", "negative", "vast"])
def test_a_process_that_talks_nonsense_is_killed_and_its_job_done_by_the_next(place, worker, which):
    assert which in NONSENSE
    before, job = worker.restarts("crash"), place.submit(f"nonsense-{which}")
    ended = place.await_end(job)
    assert (ended.state, ended.attempts) == ("succeeded", 2)
    assert worker.restarts("crash") == before + 1
    assert "it says nonsense" in worker.log


def test_a_defect_costs_the_job_alone_and_its_trace_is_in_the_log(place, worker):
    child, job = worker.child, place.submit("defect")
    ended = place.await_end(job)
    assert (ended.state, ended.attempts, ended.failure.code) == ("failed", 1, "internal")
    assert 'raise LookupError("of its own")' in worker.log
    assert worker.child == child


def test_an_error_of_the_gpu_fails_its_job_and_the_next_one_gets_a_new_process(place, worker):
    before, job, other = worker.restarts("cuda"), place.submit("gpu-0.3"), place.submit("other")
    ended = place.await_end(job)
    assert (ended.state, ended.attempts, ended.failure.code) == ("failed", 1, "inference_failed")
    other = place.await_end(other)
    assert (other.state, other.attempts) == ("succeeded", 1)
    assert worker.restarts("cuda") == before + 1


def test_a_video_that_is_gone_or_none_fails_with_its_code(place, worker):
    gone = place.submit(clip="0" * 64)
    assert place.await_end(gone).failure.code == "artifact_not_found"
    text = place.submit(clip=place.store.put("video", b"no video").key)
    assert place.await_end(text).failure.code == "unsupported_media"


@pytest.mark.slow
def test_a_worker_that_lost_its_job_to_another_changes_nothing_of_it(place, worker):
    before, job = worker.metric("tal_lease_lost_total"), place.submit("slow-3")
    place.await_stage(job)
    with contextlib.closing(sqlite3.connect(place.folder / "queue.db", timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")  # a worker that is stopped with the file locked keeps it locked
        worker.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED)
        db.execute("ROLLBACK")
    try:
        claim = wait_until(lambda: place.queue.take("another", ["bright"], ["normal"]))
    finally:
        worker.process.send_signal(signal.SIGCONT)
    assert claim.job.id == job.id
    wait_until(lambda: place.queue.renew(claim) and worker.metric("tal_lease_lost_total") == before + 1)
    place.queue.settle(claim, Succeeded(StoredResult(text='"of another"')))
    assert place.await_end(place.submit("next")).worker == worker.id
    assert place.document(job) == "of another"
    assert place.queue.get(job.id).worker == "another"
    assert worker.metric("tal_lease_lost_total") == before + 1


@pytest.mark.slow
def test_probes_and_metrics_answer_while_the_model_process_is_dead(place, worker):
    assert worker.probe("/readyz") == (200, "ok\n")
    child = worker.child
    child.kill()
    unready = wait_until(lambda: answer if (answer := worker.probe("/readyz"))[0] != 200 else None)
    assert unready == (503, "the models are not loaded\n")
    assert worker.probe("/livez")[0] == worker.probe("/startupz")[0] == 200
    assert worker.metric("tal_queue_up") == 1
    assert "tal_worker_restarts_total" in worker.probe("/metrics")[1]
    assert worker.probe("/nothing")[0] == 404
    wait_until(lambda: worker.probe("/readyz")[0] == 200)
    assert not child.is_running()
