"""What every queue promises, asked of each backend through the protocol alone."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from service.errors import (
    IdempotencyMismatch,
    JobNotFinished,
    JobNotFound,
    LeaseLost,
    QueueFull,
    ResultNotThere,
    StoreMismatch,
)
from service.jobs.job import PRIORITIES, Job, StoredVideo
from service.jobs.queue import (
    Ended,
    Failed,
    HandedBack,
    Idempotency,
    JobFilter,
    JobQueue,
    StoredResult,
    Succeeded,
    WorkerRecord,
)
from service.localization import DetectOptions, Progress
from tests.service.jobs.harness import BAD_VIDEO, CRASH, DONE, LEASE_S, POLICY, Harness, at_once, request, take


def nothing_to_take(queue: JobQueue) -> bool:
    return queue.take("w9", ("m",), PRIORITIES) is None


def test_a_job_goes_from_waiting_to_running_to_its_result(queue: JobQueue) -> None:
    job = queue.submit(request(tags=("a", "b"), options=DetectOptions(top_k=3, labels=("jump",)))).job
    assert (job.state, job.version, job.attempts) == ("queued", 1, 0)
    assert queue.get(job.id) == job

    claim = take(queue)
    assert (claim.job.state, claim.job.worker, claim.delivery, claim.job.attempts) == ("running", "w1", 1, 1)
    assert claim.job.request == job.request
    queue.report(claim, Progress("decode", 1.0, 4.0))
    assert queue.get(job.id).progress == Progress("decode", 1.0, 4.0)

    done = queue.settle(claim, DONE)
    assert done.state == "succeeded"
    assert done.finished_at_s is not None
    assert queue.get(job.id) == done
    assert queue.result(job.id) == DONE.result
    assert nothing_to_take(queue)


def test_a_long_result_is_kept_by_its_key(queue: JobQueue) -> None:
    queue.submit(request())
    claim = take(queue)
    queue.settle(claim, Succeeded(StoredResult(key="cd" * 32)))
    assert queue.result(claim.job.id) == StoredResult(key="cd" * 32)


def test_a_job_that_is_not_there_is_told_as_such(queue: JobQueue) -> None:
    for ask in (queue.get, queue.events, queue.result, queue.cancel, queue.delete):
        with pytest.raises(JobNotFound):
            ask("0" * 32)
    assert queue.versions(["0" * 32]) == {}


def test_a_job_without_a_result_says_so(queue: JobQueue) -> None:
    job = queue.submit(request()).job
    with pytest.raises(ResultNotThere):
        queue.result(job.id)


def test_a_second_handle_sees_the_same_jobs(harness: Harness) -> None:
    job = harness.open().submit(request()).job
    assert harness.open().get(job.id) == job


def test_a_queue_answers_when_asked_whether_it_is_there(queue: JobQueue) -> None:
    queue.ping()


def test_a_queue_pairs_with_one_artifact_store_only(harness: Harness) -> None:
    harness.open().pair("store-1")
    harness.open().pair("store-1")
    with pytest.raises(StoreMismatch):
        harness.open().pair("store-2")


# Idempotency and admission


def test_the_same_key_gives_the_same_job(queue: JobQueue) -> None:
    first = queue.submit(request(), Idempotency("k", "f"))
    again = queue.submit(request(), Idempotency("k", "f"))
    assert (first.replayed, again.replayed) == (False, True)
    assert again.job.id == first.job.id
    assert queue.recall("k") == ("f", first.job)
    assert queue.recall("other") is None


def test_a_key_used_for_another_request_is_refused(queue: JobQueue) -> None:
    queue.submit(request(), Idempotency("k", "f"))
    with pytest.raises(IdempotencyMismatch):
        queue.submit(request(model="n"), Idempotency("k", "g"))
    assert len(queue.find(JobFilter(), 10)) == 1


def test_a_key_is_forgotten_after_its_time(harness: Harness) -> None:
    queue = harness.open(keep_idempotency_s=0.5)
    first = queue.submit(request(), Idempotency("k", "f")).job
    harness.pass_time(0.7)
    queue.sweep()
    assert queue.recall("k") is None
    assert queue.submit(request(), Idempotency("k", "g")).job.id != first.id


def test_a_hundred_callers_with_one_key_make_one_job(queue: JobQueue) -> None:
    with ThreadPoolExecutor(100) as pool:
        submissions = list(pool.map(lambda _: queue.submit(request(), Idempotency("k", "f")), range(100)))
    assert len({submission.job.id for submission in submissions}) == 1
    assert sum(not submission.replayed for submission in submissions) == 1
    assert len(queue.find(JobFilter(), 200)) == 1


def test_more_jobs_than_may_wait_are_refused_with_the_numbers(harness: Harness) -> None:
    queue = harness.open(max_queued_jobs=2)
    queue.submit(request(), Idempotency("k", "f"))
    queue.submit(request())
    with pytest.raises(QueueFull, match="2"):
        queue.submit(request())
    assert queue.submit(request(), Idempotency("k", "f")).replayed
    take(queue)
    queue.submit(request())


def test_more_seconds_of_video_than_may_wait_are_refused(harness: Harness) -> None:
    queue = harness.open(max_queued_video_s=25.0)
    queue.submit(request())
    queue.submit(request(video_s=100.0, options=DetectOptions(start_s=10.0, end_s=22.0)))
    with pytest.raises(QueueFull, match="25"):
        queue.submit(request())
    assert queue.stats().queued_video_s == pytest.approx(22.0)


def test_many_callers_at_once_do_not_get_past_the_limit(harness: Harness) -> None:
    queue = harness.open(max_queued_jobs=5)

    def accepted(_: int) -> bool:
        try:
            queue.submit(request())
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(accepted, range(40))) == 5


# Taking


def test_jobs_of_one_priority_are_taken_as_they_came(harness: Harness, queue: JobQueue) -> None:
    ids = []
    for _ in range(4):
        ids.append(queue.submit(request()).job.id)
        harness.pass_time(0.005)
    assert [take(queue).job.id for _ in ids] == ids


def test_a_worker_gets_only_what_it_serves(queue: JobQueue) -> None:
    job = queue.submit(request(model="n", priority="low")).job
    assert queue.take("w", ("m",), PRIORITIES) is None
    assert queue.take("w", ("m", "n"), ("high", "normal")) is None
    assert take(queue, models=("m", "n")).job.id == job.id


def test_higher_priorities_go_first(queue: JobQueue) -> None:
    ids = {priority: queue.submit(request(priority=priority)).job.id for priority in ("low", "normal", "high")}
    assert [take(queue).job.id for _ in ids] == [ids["high"], ids["normal"], ids["low"]]


def test_a_low_job_does_not_starve_behind_high_ones(harness: Harness) -> None:
    queue = harness.open(ageing_s={"high": 0.0, "normal": 0.2, "low": 0.4})
    low = queue.submit(request(priority="low")).job.id
    queue.submit(request(priority="high"))
    assert take(queue).job.id != low
    taken = []
    for _ in range(12):
        harness.pass_time(0.1)
        queue.submit(request(priority="high"))
        queue.submit(request(priority="high"))
        taken.append(take(queue).job.id)
    assert low in taken


def test_eight_threads_get_each_of_200_jobs_once(queue: JobQueue) -> None:
    ids = {queue.submit(request()).job.id for _ in range(200)}

    def drain(worker: int) -> list[str]:
        taken = []
        while claim := queue.take(f"w{worker}", ("m",), PRIORITIES):
            taken.append(claim.job.id)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for part in pool.map(drain, range(8)) for job_id in part]
    assert len(taken) == 200
    assert set(taken) == ids


DRAIN = """
import sys
from tests.service.jobs.harness import open_by
from service.jobs.job import PRIORITIES
queue = open_by(tuple(sys.argv[1:4]))
while claim := queue.take(sys.argv[4], ("m",), PRIORITIES):
    print(claim.job.id, flush=True)
queue.close()
"""


def test_two_processes_get_each_job_once(harness: Harness, queue: JobQueue) -> None:
    ids = sorted(queue.submit(request()).job.id for _ in range(60))
    drains = [
        subprocess.Popen([sys.executable, "-c", DRAIN, *harness.opener(), name], stdout=subprocess.PIPE, text=True)
        for name in ("p1", "p2")
    ]
    taken = [job_id for drain in drains for job_id in drain.communicate(timeout=60)[0].split()]
    assert [drain.returncode for drain in drains] == [0, 0]
    assert sorted(taken) == ids


# Leases


def test_a_renewed_lease_keeps_the_job(harness: Harness, queue: JobQueue) -> None:
    queue.submit(request())
    claim = take(queue)
    for _ in range(4):
        harness.pass_time(LEASE_S * 0.4)
        assert queue.renew(claim).state == "running"
    assert nothing_to_take(queue)


def test_a_job_whose_lease_lapsed_goes_to_another_worker_before_all_that_wait(
    harness: Harness, queue: JobQueue
) -> None:
    job = queue.submit(request(priority="low")).job
    take(queue)
    queue.submit(request(priority="high"))
    harness.pass_time(LEASE_S * 1.3)
    claim = take(queue, "w2")
    assert (claim.job.id, claim.delivery, claim.job.attempts, claim.job.worker) == (job.id, 2, 2, "w2")


@pytest.mark.parametrize("second", ["w2", "w1"])
def test_who_lost_the_lease_can_change_nothing(harness: Harness, queue: JobQueue, second: str) -> None:
    job = queue.submit(request()).job
    zombie = take(queue, "w1")
    harness.pass_time(LEASE_S * 1.3)
    claim = take(queue, second)
    before, told = queue.get(job.id), queue.events(job.id)
    with pytest.raises(LeaseLost):
        queue.renew(zombie)
    with pytest.raises(LeaseLost):
        queue.report(zombie, Progress("decode", 9.0, 9.0))
    for outcome in (DONE, CRASH, BAD_VIDEO, Ended("canceled"), HandedBack()):
        with pytest.raises(LeaseLost):
            queue.settle(zombie, outcome)
    assert (queue.get(job.id), queue.events(job.id)) == (before, told)
    with pytest.raises(ResultNotThere):
        queue.result(job.id)
    assert queue.settle(claim, DONE).state == "succeeded"
    with pytest.raises(LeaseLost):
        queue.settle(zombie, Succeeded(StoredResult(text="another")))
    assert queue.result(job.id) == DONE.result


def test_a_job_whose_workers_all_fall_silent_ends_as_a_dead_letter(harness: Harness) -> None:
    queue = harness.open(max_attempts=2)
    job = queue.submit(request()).job
    for _ in range(2):
        take(queue, "w1")
        harness.pass_time(LEASE_S * 1.3)
    assert nothing_to_take(queue)
    dead = queue.get(job.id)
    assert (dead.state, dead.dead_letter, dead.attempts) == ("failed", True, 2)
    assert dead.failure is not None
    assert "2" in dead.failure.message
    assert queue.stats().dead_letters == 1


def test_a_sweep_ends_lapsed_leases_too(harness: Harness) -> None:
    queue = harness.open(max_attempts=2)
    job = queue.submit(request()).job
    take(queue)
    harness.pass_time(LEASE_S * 1.3)
    swept = queue.sweep()
    assert (swept.requeued, swept.dead) == (1, 0)
    take(queue)
    harness.pass_time(LEASE_S * 1.3)
    assert queue.sweep().dead == 1
    assert queue.get(job.id).state == "failed"


def test_a_job_under_cancel_whose_worker_falls_silent_ends_canceled(harness: Harness, queue: JobQueue) -> None:
    job = queue.submit(request()).job
    take(queue)
    queue.cancel(job.id)
    harness.pass_time(LEASE_S * 1.3)
    assert nothing_to_take(queue)
    assert queue.sweep().canceled in {0, 1}
    assert queue.get(job.id).state == "canceled"


def test_a_lease_is_as_long_as_its_owner_was_told_whoever_looks(harness: Harness) -> None:
    patient, hasty = harness.open(lease_s=6 * LEASE_S), harness.open()
    patient.submit(request())
    patient.submit(request())
    kept, quick = take(patient, "w1"), take(hasty, "w2")
    harness.pass_time(2.3 * LEASE_S)
    assert patient.sweep().requeued == 1
    assert hasty.sweep().requeued == 0
    assert patient.renew(kept).attempts == 1
    assert take(hasty, "w3").job.id == quick.job.id


@pytest.mark.parametrize(("first_s", "second_s"), [(60.0, LEASE_S), (LEASE_S, 60.0)])
def test_a_job_that_is_handed_back_waits_for_no_lease_of_others(
    harness: Harness, first_s: float, second_s: float
) -> None:
    first, second = harness.open(lease_s=first_s), harness.open(lease_s=second_s)
    job = first.submit(request()).job
    first.settle(take(first), HandedBack())
    assert take(second, "w2").job.id == job.id


# Records of a release to come


@pytest.mark.parametrize("record", ["[]", "{}", "not JSON", '{"video": 1, "options": {}, "model": "m"}'])
def test_a_job_that_cannot_be_read_fails_and_keeps_none_behind_it_waiting(
    harness: Harness, queue: JobQueue, record: str
) -> None:
    strange = queue.submit(request(owner="k1", priority="high")).job
    plain = queue.submit(request()).job
    harness.rewrite(strange.id, "request", record)
    assert take(queue).job.id == plain.id
    assert nothing_to_take(queue)
    failed = queue.get(strange.id)
    assert (failed.state, failed.attempts, failed.dead_letter) == ("failed", 1, False)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.retryable) == ("internal", False)
    assert "cannot read" in failed.failure.message


def test_a_page_shows_a_job_that_cannot_be_read_by_what_is_known_of_it(harness: Harness, queue: JobQueue) -> None:
    strange = queue.submit(request(owner="k1", priority="high")).job
    time.sleep(0.002)  # jobs of one millisecond have no order
    plain = queue.submit(request()).job
    harness.rewrite(strange.id, "request", "{}")
    assert [job.id for job in queue.find(JobFilter(), 10)] == [plain.id, strange.id]
    known = queue.get(strange.id).request
    assert (known.model, known.priority, known.owner, known.video.key) == ("m", "high", "k1", "ab" * 32)
    assert known.video_s == 10.0
    assert queue.cancel(strange.id).state == "canceled"
    queue.delete(strange.id)


def test_a_running_job_that_cannot_be_read_lapses_as_any_other(harness: Harness, queue: JobQueue) -> None:
    strange = take(queue) if queue.submit(request()) else None
    assert strange is not None
    harness.rewrite(strange.job.id, "request", "{}")
    harness.rewrite(strange.job.id, "progress", '{"stage": "decode"}')
    assert queue.renew(strange).progress is None
    harness.pass_time(LEASE_S * 1.3)
    assert queue.sweep().requeued == 1
    assert nothing_to_take(queue)
    assert queue.get(strange.job.id).state == "failed"


def test_a_failure_that_cannot_be_read_hides_no_job(harness: Harness, queue: JobQueue) -> None:
    queue.submit(request())
    job = queue.settle(take(queue), BAD_VIDEO)
    harness.rewrite(job.id, "failure", "{}")
    failure = queue.get(job.id).failure
    assert failure is not None
    assert failure.code == "internal"


# Outcomes


def test_a_failure_that_can_pass_is_tried_again_after_a_growing_pause(harness: Harness, queue: JobQueue) -> None:
    job = queue.submit(request()).job
    for pause_s in (POLICY.retry_delay_s, 2 * POLICY.retry_delay_s):
        assert queue.settle(take(queue), CRASH).state == "queued"
        harness.pass_time(pause_s * 0.5)
        assert nothing_to_take(queue)
        harness.pass_time(pause_s * 0.7)
        queue.sweep()
    dead = queue.settle(take(queue), CRASH)
    assert (dead.state, dead.dead_letter, dead.attempts) == ("failed", True, 3)
    assert dead.failure is not None
    assert dead.failure.code == "worker_crashed"
    assert "3 attempts" in dead.failure.message
    assert CRASH.failure.message in dead.failure.message
    assert queue.get(job.id) == dead


def test_a_job_that_is_tried_again_keeps_its_place_before_those_that_came_later(
    harness: Harness, queue: JobQueue
) -> None:
    first = queue.submit(request()).job
    harness.pass_time(0.005)
    later, urgent = (queue.submit(request(priority=priority)).job for priority in ("normal", "high"))
    assert take(queue).job.id == urgent.id
    queue.settle(take(queue), CRASH)
    harness.pass_time(POLICY.retry_delay_s * 1.2)
    assert take(queue).job.id == first.id
    assert take(queue).job.id == later.id


def test_a_failure_that_cannot_pass_ends_the_job(queue: JobQueue) -> None:
    queue.submit(request())
    failed = queue.settle(take(queue), BAD_VIDEO)
    assert (failed.state, failed.failure, failed.dead_letter) == ("failed", BAD_VIDEO.failure, False)


def test_a_job_that_is_handed_back_goes_to_the_front_and_pays_no_attempt(harness: Harness, queue: JobQueue) -> None:
    first = queue.submit(request()).job
    harness.pass_time(0.005)
    queue.submit(request())
    for delivery in range(1, 6):
        claim = take(queue)
        assert (claim.job.id, claim.delivery, claim.job.attempts) == (first.id, delivery, 1)
        assert queue.settle(claim, HandedBack()).attempts == 0


def test_the_same_outcome_twice_is_no_error(queue: JobQueue) -> None:
    for outcome in (DONE, CRASH, BAD_VIDEO, Ended("expired"), HandedBack()):
        job = queue.submit(request(model=type(outcome).__name__)).job
        claim = take(queue, models=(job.request.model,))
        once = queue.settle(claim, outcome)
        assert queue.settle(claim, outcome) == once
        assert queue.get(job.id) == once


def test_an_outcome_that_was_acknowledged_can_be_repeated_after_the_next_delivery_began(queue: JobQueue) -> None:
    queue.submit(request())
    first = take(queue)
    queue.settle(first, HandedBack())
    second = take(queue)
    queue.settle(first, HandedBack())
    assert queue.renew(second).state == "running"
    assert queue.settle(second, DONE).state == "succeeded"


def test_another_outcome_after_the_end_is_refused(queue: JobQueue) -> None:
    queue.submit(request())
    claim = take(queue)
    queue.settle(claim, DONE)
    with pytest.raises(LeaseLost):
        queue.settle(claim, BAD_VIDEO)
    assert queue.get(claim.job.id).state == "succeeded"


# Cancels and deadlines


def test_a_waiting_job_is_canceled_at_once(queue: JobQueue) -> None:
    job = queue.submit(request()).job
    assert queue.cancel(job.id).state == "canceled"
    assert nothing_to_take(queue)
    assert queue.stats().queued == {"high": 0, "normal": 0, "low": 0}


def test_a_running_job_is_asked_to_end(queue: JobQueue) -> None:
    job = queue.submit(request()).job
    claim = take(queue)
    assert queue.cancel(job.id).state == "canceling"
    assert queue.renew(claim).state == "canceling"
    assert queue.cancel(job.id).state == "canceling"
    assert queue.settle(claim, Ended("canceled")).state == "canceled"
    assert queue.cancel(job.id).state == "canceled"


@pytest.mark.parametrize("outcome", [CRASH, BAD_VIDEO, HandedBack(), Ended("expired"), Ended("canceled")])
def test_a_job_under_cancel_ends_canceled_whatever_came_of_it(queue: JobQueue, outcome: Failed) -> None:
    queue.submit(request())
    claim = take(queue)
    queue.cancel(claim.job.id)
    assert queue.settle(claim, outcome).state == "canceled"
    assert nothing_to_take(queue)


def test_a_job_that_succeeded_before_it_heard_of_the_cancel_has_succeeded(queue: JobQueue) -> None:
    queue.submit(request())
    claim = take(queue)
    queue.cancel(claim.job.id)
    assert queue.settle(claim, DONE).state == "succeeded"
    assert queue.result(claim.job.id) == DONE.result


def test_a_cancel_at_any_moment_leaves_one_of_two_ends(queue: JobQueue) -> None:
    chance = random.Random(1)

    def work() -> None:
        claim = take(queue)
        time.sleep(chance.random() * 0.004)
        queue.settle(claim, DONE if queue.renew(claim).state == "running" else Ended("canceled"))

    for _ in range(40):
        job = queue.submit(request()).job
        threads = [threading.Thread(target=work)]
        with at_once(threads):
            time.sleep(chance.random() * 0.006)
            while queue.get(job.id).state == "queued":
                time.sleep(0.001)
            queue.cancel(job.id)
        end = queue.get(job.id)
        assert end.state in {"succeeded", "canceled"}
        assert _has_result(queue, job.id) == (end.state == "succeeded")
        assert queue.events(job.id)[-1].data["state"] == end.state


def _has_result(queue: JobQueue, job_id: str) -> bool:
    try:
        queue.result(job_id)
    except ResultNotThere:
        return False
    return True


def test_a_job_past_its_deadline_is_never_handed_out_and_expires(harness: Harness, queue: JobQueue) -> None:
    job = queue.submit(request(deadline_at_s=harness.now_s() + 0.3)).job
    assert queue.sweep().expired == 0
    harness.pass_time(0.4)
    assert nothing_to_take(queue)
    queue.sweep()
    expired = queue.get(job.id)
    assert expired.state == "expired"
    assert expired.failure is not None
    assert expired.failure.code == "deadline_passed"


# What callers see


def test_events_tell_each_change_in_order_and_go_on_where_a_reader_stopped(queue: JobQueue) -> None:
    job = queue.submit(request()).job
    claim = take(queue)
    queue.report(claim, Progress("decode", 1.0, 2.0))
    queue.settle(claim, BAD_VIDEO)
    events = queue.events(job.id)
    assert [event.kind for event in events] == ["state", "state", "progress", "state"]
    assert [event.data.get("state") for event in events] == ["queued", "running", None, "failed"]
    assert events[2].data == {"stage": "decode", "done": 1.0, "total": 2.0}
    assert events[3].data["failure"]["code"] == "corrupt_video"
    assert queue.events(job.id, after=events[1].id) == events[2:]
    assert queue.events(job.id, limit=2) == events[:2]
    assert queue.events(job.id, after=events[-1].id) == []


def test_old_progress_is_forgotten_before_states(harness: Harness) -> None:
    queue = harness.open(max_events=5)
    job = queue.submit(request()).job
    claim = take(queue)
    for done in range(20):
        queue.report(claim, Progress("decode", float(done), 20.0))
    queue.settle(claim, DONE)
    events = queue.events(job.id)
    assert len(events) == 5
    assert [event.data["state"] for event in events if event.kind == "state"] == ["queued", "running", "succeeded"]
    assert [event.data["done"] for event in events if event.kind == "progress"] == [18.0, 19.0]


def test_versions_grow_with_each_change(queue: JobQueue) -> None:
    job = queue.submit(request()).job
    seen = [queue.versions([job.id, "0" * 32])]
    claim = take(queue)
    seen.append(queue.versions([job.id]))
    queue.report(claim, Progress("decode", 1.0, 2.0))
    seen.append(queue.versions([job.id]))
    queue.cancel(job.id)
    seen.append(queue.versions([job.id]))
    queue.settle(claim, Ended("canceled"))
    seen.append(queue.versions([job.id]))
    numbers = [versions[job.id] for versions in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == queue.get(job.id).version


def test_jobs_are_found_newest_first_and_page_by_page(queue: JobQueue) -> None:
    ids = sorted((queue.submit(request()).job.id for _ in range(5)), reverse=True)
    pages, before = [], None
    while page := queue.find(JobFilter(), 2, before):
        pages.append([job.id for job in page])
        before = page[-1].id
    assert pages == [ids[:2], ids[2:4], ids[4:]]


def test_jobs_are_found_by_state_model_and_tag(queue: JobQueue) -> None:
    plain = queue.submit(request()).job.id
    other = queue.submit(request(model="n", tags=("x", "y"))).job.id
    queue.cancel(plain)

    def ids(wanted: JobFilter) -> list[str]:
        return [job.id for job in queue.find(wanted, 10)]

    assert ids(JobFilter(states=("canceled", "failed"))) == [plain]
    assert ids(JobFilter(model="n")) == [other]
    assert ids(JobFilter(tag="y")) == [other]
    assert ids(JobFilter(states=("queued",), model="m")) == []


def test_only_a_finished_job_can_be_deleted(queue: JobQueue) -> None:
    job = queue.submit(request(tags=("x",)), Idempotency("k", "f")).job
    with pytest.raises(JobNotFinished):
        queue.delete(job.id)
    claim = take(queue)
    with pytest.raises(JobNotFinished):
        queue.delete(job.id)
    queue.settle(claim, DONE)
    queue.delete(job.id)
    with pytest.raises(JobNotFound):
        queue.get(job.id)
    assert queue.find(JobFilter(tag="x"), 10) == []
    assert queue.recall("k") is None


def test_a_sweep_forgets_jobs_that_finished_long_ago(harness: Harness) -> None:
    queue = harness.open(keep_jobs_s=1.0)
    old = queue.submit(request()).job
    queue.settle(take(queue), Succeeded(StoredResult(key="cd" * 32)))
    waiting = queue.submit(request()).job
    harness.pass_time(1.3)
    assert queue.sweep().removed == 1
    assert [job.id for job in queue.find(JobFilter(), 10)] == [waiting.id]
    assert queue.references(["cd" * 32]) == set()
    with pytest.raises(JobNotFound):
        queue.get(old.id)


def test_a_video_is_needed_until_its_jobs_finish_and_a_result_until_its_job_goes(queue: JobQueue) -> None:
    video, result, stranger = "ab" * 32, "cd" * 32, "ef" * 32
    first = queue.submit(request()).job
    queue.submit(request())
    assert queue.references([video, result, stranger]) == {video}
    for _ in range(2):
        queue.settle(take(queue), Succeeded(StoredResult(key=result)))
    assert queue.references([video, result, stranger]) == {result}
    queue.delete(first.id)
    assert queue.references([video, result]) == {result}


def test_stats_tell_what_waits_and_runs(harness: Harness, queue: JobQueue) -> None:
    queue.submit(request(priority="low"))
    queue.submit(request(priority="low", video=StoredVideo("aa" * 32, "b.mp4", 5, 7.0)))
    queue.submit(request(priority="high"))
    take(queue)
    harness.pass_time(0.2)
    stats = queue.stats()
    assert dict(stats.queued) == {"high": 0, "normal": 0, "low": 2}
    assert stats.oldest_s["low"] == pytest.approx(0.2, abs=0.15)
    assert (stats.running, stats.queued_video_s, stats.dead_letters) == (1, pytest.approx(17.0), 0)


def test_workers_are_known_while_they_beat(harness: Harness, queue: JobQueue) -> None:
    record = WorkerRecord("w1", "host", 12, harness.now_s(), True, {"m": {"sha256": "ab"}}, ("high", "low"))
    queue.beat(record)
    queue.beat(replace(record, id="w2", job_id="j"))
    known = {worker.id: worker for worker in queue.workers()}
    assert known.keys() == {"w1", "w2"}
    assert replace(known["w1"], beat_at_s=0.0) == record
    assert known["w1"].beat_at_s == pytest.approx(harness.now_s(), abs=1.0)
    queue.leave("w1")
    assert [worker.id for worker in queue.workers()] == ["w2"]
    harness.pass_time(POLICY.worker_silence_s * 1.3)
    assert queue.workers() == []


def test_a_closed_handle_leaves_the_jobs_to_others(harness: Harness) -> None:
    first, second = harness.open(), harness.open()
    job: Job = first.submit(request()).job
    first.close()
    assert second.get(job.id) == job
