"""Signals, kills and reloads: what becomes of a worker, of all that it started, and of its job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.service.worker.faulty_child import ROOT
from tests.service.worker.workplace import Workplace, free_port, gone, probe, starting, wait_until
from tests.support import bundles

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_processes_along_and_another_worker_does_the_job(place):
    with place.worker("one") as one:
        job = place.submit("hang")
        place.await_stage(job, "probe")
        (decoder,) = wait_until(lambda: one.child.children(recursive=True))
        processes = [one.child, decoder]
        one.process.kill()
        killed_s = time.monotonic()
        wait_until(lambda: all(map(gone, processes)), 2.0)
        assert time.monotonic() - killed_s < 2.0
        with place.worker("two"):
            ended = place.await_end(job)
    assert (ended.state, ended.attempts, ended.worker) == ("succeeded", 2, "two")
    assert place.failures(job)[0]["code"] == "worker_crashed"


def test_a_killed_supervisor_takes_along_a_process_that_holds_the_interpreter(place):
    with place.worker() as worker:
        job = place.submit("gil-60")
        wait_until(lambda: place.runs(job))
        child = worker.child
        worker.process.kill()
        wait_until(lambda: gone(child), 2.0)


@pytest.mark.slow
@pytest.mark.parametrize(("drain_s", "signals"), [(0.3, 1), (60.0, 2)])
def test_a_worker_that_is_told_to_end_hands_its_job_back_uncounted(place, drain_s, signals):
    with place.worker(drain_s=drain_s) as worker:
        job = place.submit("slow-60")
        place.await_stage(job)
        processes = psutil.Process(worker.process.pid).children(recursive=True)
        for number in range(1, signals + 1):
            worker.process.send_signal(signal.SIGTERM)
            if number < signals:
                wait_until(lambda: "draining" in worker.probe("/readyz")[1])
                assert place.queue.get(job.id).state == "running"
        assert worker.await_end() == 0
        assert all(map(gone, processes))
    waiting = place.queue.get(job.id)
    assert (waiting.state, waiting.attempts, waiting.delivery) == ("queued", 0, 1)
    assert place.queue.workers() == []


@pytest.mark.slow
def test_a_signal_to_all_processes_and_the_order_of_a_parent_start_one_drain(place):
    with place.worker(drain_s=1.0) as worker:
        job = place.submit("hang")
        place.await_stage(job, "probe")
        wait_until(worker.child.children)
        supervisor = psutil.Process(worker.process.pid)
        for process in [*supervisor.children(recursive=True), supervisor]:
            process.terminate()
        signaled_s = time.monotonic()
        wait_until(lambda: "draining" in worker.log)
        worker.process.send_signal(signal.SIGUSR1)
        assert worker.await_end() == 0
        assert time.monotonic() - signaled_s >= 1.0
    waiting = place.queue.get(job.id)
    assert (waiting.state, waiting.attempts, waiting.delivery) == ("queued", 0, 1)


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_finishes_its_job_first_and_takes_no_other(place):
    with place.worker() as worker:
        job = place.submit("slow-1")
        place.await_stage(job)
        worker.process.send_signal(signal.SIGINT)
        other = place.submit("other")
        assert worker.await_end() == 0
    assert place.queue.get(job.id).state == "succeeded"
    assert place.queue.get(other.id).state == "queued"


def test_an_idle_worker_ends_at_once(place):
    with place.worker() as worker:
        worker.process.terminate()
        asked_s = time.monotonic()
        assert worker.await_end() == 0
        assert time.monotonic() - asked_s < 3


def test_a_worker_whose_model_cannot_load_ends_with_status_3(place):
    (place.folder / "models" / "bright" / "features.rgb.onnx").write_bytes(b"no graph")
    with place.worker(wait=False) as worker:
        assert worker.await_end() == 3
        assert "invalid_bundle" in worker.log


@pytest.mark.slow
def test_models_are_read_again_behind_a_running_job(place):
    with place.worker() as worker:
        job = place.submit("slow-3")
        place.await_stage(job)
        old = worker.child
        bundles.classifier(place.folder / "models" / "bright-2", name="brighter")
        worker.process.send_signal(signal.SIGHUP)
        ended = place.await_end(job)
        assert (ended.state, ended.delivery) == ("succeeded", 1)
        wait_until(lambda: worker.metric('tal_model_reloads_total{outcome="succeeded"}') == 1)
        assert worker.restarts("reload") == 1
        assert place.await_end(place.submit(model="bright-2")).state == "succeeded"
        assert gone(old)
        assert 'model="bright-2"' in worker.probe("/metrics")[1]


@pytest.mark.slow
def test_the_old_models_stay_where_the_new_ones_cannot_be_loaded(place):
    with place.worker() as worker:
        job = place.submit("slow-2")
        place.await_stage(job)
        old = worker.child
        (place.folder / "models" / "bright" / "features.rgb.onnx").write_bytes(b"no graph")
        worker.process.send_signal(signal.SIGHUP)
        wait_until(lambda: worker.metric('tal_model_reloads_total{outcome="failed"}') == 1)
        assert place.await_end(job).state == "succeeded"
        shutil.rmtree(place.folder / "models")
        worker.process.send_signal(signal.SIGHUP)
        wait_until(lambda: worker.metric('tal_model_reloads_total{outcome="failed"}') == 2)
        assert place.await_end(place.submit("still there")).state == "succeeded"
        assert worker.child == old
        assert worker.probe("/readyz")[0] == 200


# The command, with nothing replaced.


@pytest.fixture
def home(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TAL_")}
    settings = {"TAL_HOME": str(tmp_path), "TAL_THREADS": "1", "TAL_DEVICE": "cpu", "TAL_DEFAULT_MODEL": "bright"}
    return {**environment, **settings, "TAL_LEASE_S": "2", "TAL_MIN_FREE_DISK_MIB": "0"}


TAL = ["-c", "from service.cli import main; main()", "worker"]


def run(arguments, environment):
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_tal_worker_takes_the_priorities_and_serves_the_models_that_it_is_told(place, home):
    bundles.classifier(place.folder / "models" / "other")
    port = free_port()
    arguments = [*TAL, "--id", "cli", "--queues", "high", "--models", "other", "--metrics-port", str(port)]
    low = place.submit("low", model="other", priority="low")
    unserved = place.submit("unserved", priority="high")
    high = place.submit("high", model="other", priority="high")
    place.queue.close()
    with starting(arguments, place.folder / "cli.log", **home) as process:
        assert place.await_end(high).state == "succeeded"
        (record,) = place.queue.workers()
        assert (record.id, list(record.models), record.priorities) == ("cli", ["other"], ("high",))
        assert probe(port, "/readyz") == (200, "ok\n")
        assert 'tal_queue_depth{priority="low"} 1.0' in probe(port, "/metrics")[1]
        assert place.queue.get(low.id).state == place.queue.get(unserved.id).state == "queued"
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--queues", "high,urgent"], "high, normal, low"),
        (["--models", ","], "name none"),
        (["--models", "missing"], "missing"),
    ],
)
def test_tal_worker_refuses_what_makes_no_sense(tmp_path, home, options, told):
    done = run([*TAL, *options], home)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_tal_worker_refuses_the_queue_of_another_store(place, home):
    place.queue.pair(place.store.id)
    other = {**home, "TAL_STORE": str(place.folder / "other")}
    done = run(TAL, other)
    assert done.returncode == 2
    assert "store_mismatch" in done.stderr


@pytest.mark.slow
def test_tal_worker_keeps_house(place, home):
    expired = place.submit("late", deadline_at_s=time.time() + 0.2, model="unserved")
    unused = place.store.put("video", b"unused")
    long_ago_s = time.time() - 1e6
    os.utime(place.store.path("video", unused.key), (long_ago_s, long_ago_s))
    with starting(TAL, place.folder / "cli.log", **home) as process:
        assert place.await_end(expired).state == "expired"
        wait_until(lambda: not list((place.folder / "store" / "video").glob(f"*/*/{unused.key}")))
        process.terminate()
        assert process.wait(30) == 0
