"""What a supervisor is made of, each part alone: it takes nonsense and defects from both sides and stays calm."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import JobNotFound, LeaseLost, QueueUnavailable, StorageFull, Unavailable
from service.jobs.job import Job, JobRequest, StoredVideo
from service.jobs.local_store import LocalStore
from service.jobs.queue import Claim, QueuePolicy, StoredResult, Succeeded
from service.jobs.stores import StoreAddress
from service.worker import children as starting
from service.worker import messages, stored_files
from service.worker import settling as settle_module
from service.worker.child import ExecutorSetup
from service.worker.children import Children
from service.worker.errand import Errand
from service.worker.guarded_queue import GuardedQueue
from service.worker.job_run import HAND_BACK, LOST, JobRun, Limits
from service.worker.lease import Lease
from service.worker.metrics import RestartReason, WorkerMetrics
from service.worker.presence import Presence
from service.worker.settling import Settling
from tests.service.worker.faulty_child import NONSENSE, ROOT, done
from tests.service.worker.workplace import wait_until

JOB = Job("1", JobRequest(StoredVideo("0" * 64, "clip.mp4", 1, 1.0), "bright"), "running", 0.0, 0.0, delivery=1)
CLAIM = Claim(JOB, "one")
DONE = Succeeded(StoredResult(text="{}"))


class Queue:
    """Answers each call with the next of what it was told to, and then well."""

    def __init__(self, *answers, lease_s=0.03):
        self.policy = QueuePolicy(lease_s=lease_s, worker_silence_s=lease_s)
        self.answers, self.calls = list(answers), []

    def __getattr__(self, name):
        def call(*args):
            self.calls.append(name)
            answer = self.answers.pop(0) if self.answers else JOB
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


# Messages.


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_told_by_one_kind_of_error(name):
    with pytest.raises((ValueError, RecursionError)):
        messages.read(NONSENSE[name].rstrip(b"\n"))


def test_a_sound_result_is_read():
    assert messages.read(done())["frames"] == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(messages._KINDS)), st.dictionaries(st.sampled_from(
    ["job", "stage", "done", "total", "models", "text", "stages_s", "code", "message", "retryable", "frames"]
), json_values))  # fmt: skip
def test_a_message_is_read_whole_or_refused(kind, fields):
    line = json.dumps({"kind": kind, **fields}).encode()
    try:
        message = messages.read(line)
    except ValueError:
        return
    assert set(messages._KINDS[kind]) <= set(message)


@given(st.binary())
def test_any_bytes_are_refused_as_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011
        messages.read(line)


# Processes.


def setup():
    return ExecutorSetup(models={})


def python(code):
    return [sys.executable, "-c", f"import os, subprocess, sys, time; {code}"]


def test_a_process_that_cannot_be_started_is_tried_again_later(caplog):
    children = Children(setup, 60.0, ["/nowhere/at/all"])
    children.start_if_due()
    assert children.current is None
    assert 0.0 < children.wake_at_s - time.monotonic() <= starting.FIRST_PAUSE_S
    assert "no model process can be started now" in caplog.text
    with pytest.raises(OSError, match="nowhere"):
        children.reload()
    assert children.successor is None


def test_a_successor_that_is_replaced_by_none_is_let_go():
    children = Children(setup, 60.0, ["sh", "-c", "exec sleep 60"])
    children.reload()
    replaced = children.successor
    children._command = ["/nowhere/at/all"]
    with pytest.raises(OSError, match="nowhere"):
        children.reload()
    assert children.living == []
    assert replaced.killed_for is None
    assert replaced._process.returncode == -9


def test_a_process_that_is_silent_while_it_loads_is_found_out_and_the_next_start_waits(monkeypatch):
    monkeypatch.setattr(starting, "LEAST_LOAD_S", 0.1)
    children = Children(setup, 0.1, ["sh", "-c", "exec sleep 60"])
    children.start_if_due()
    (child,) = wait_until(children.silent)
    child.kill("stall")
    wait_until(lambda: child.receive() is None)
    assert children.lose(child) == "SIGKILL"
    assert child.killed_for == "stall"
    assert children.wake_at_s > time.monotonic()


def test_a_model_process_ends_when_its_supervisor_is_cut_off_amid_a_line():
    children = Children(setup, 60.0, ())
    children.start_if_due()
    child = children.current
    child._socket.setblocking(True)
    child._socket.sendall(b'{"kind": ')
    child._socket.shutdown(socket.SHUT_WR)
    assert child._process.wait(40) == 0
    children.close()


def test_a_killed_process_whose_socket_another_one_holds_is_given_up(monkeypatch):
    monkeypatch.setattr(starting, "BURIAL_S", 0.1)
    children = Children(setup, 60.0, python("subprocess.Popen(['sleep', '3'], close_fds=False); time.sleep(60)"))
    children.start_if_due()
    child = children.current
    (heir,) = wait_until(psutil.Process(child.pid).children)
    child.kill("timeout")
    assert child.receive() == []
    assert wait_until(children.unburied) == [child]
    assert children.lose(child) == "SIGKILL"
    heir.kill()


def test_a_process_that_talks_without_end_or_line_is_killed(monkeypatch, caplog):
    monkeypatch.setattr("service.worker.child.LONGEST_MESSAGE_BYTES", 1000)
    children = Children(setup, 60.0, python("os.write(int(sys.argv[2]), bytes(5000)); time.sleep(60)"))
    children.start_if_due()
    child = children.current
    wait_until(lambda: child.receive() is None)
    assert children.lose(child) == "SIGKILL"
    assert "a message of more than 1000 bytes" in caplog.text


# The queue.


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (QueueUnavailable("away"), QueueUnavailable),
        (LeaseLost("over"), LeaseLost),
        (JobNotFound("deleted"), LeaseLost),
        (StorageFull("full"), QueueUnavailable),
        (KeyError("odd"), QueueUnavailable),
    ],
)
def test_only_two_failures_of_a_queue_are_left(failure, told):
    with pytest.raises(told):
        GuardedQueue(Queue(failure)).renew(CLAIM)


def test_a_lease_is_renewed_in_time_and_given_up_when_it_is_lost():
    metrics, queue = WorkerMetrics(), Queue(QueueUnavailable("away"), JOB, LeaseLost("over"))
    lease = Lease(GuardedQueue(queue), CLAIM, metrics)
    assert lease.renew_if_due() is None
    assert queue.calls == []
    wait_until(lambda: lease.renew_if_due() or lease.is_lost)
    assert (queue.calls, lease.is_lost) == (["renew", "renew"], False)
    wait_until(lambda: lease.renew_if_due() or lease.is_lost)
    lease.report(None)
    assert lease.renew_if_due() is None
    assert queue.calls == ["renew"] * 3
    assert metrics.registry.get_sample_value("tal_lease_lost_total") == 1


def test_a_lease_is_renewed_every_second_so_that_a_cancel_is_seen_however_long_it_is():
    lease = Lease(GuardedQueue(Queue(lease_s=3600.0)), CLAIM, WorkerMetrics())
    assert 0.0 < lease.wake_at_s - time.monotonic() <= 1.0
    lease.wake_at_s = 0.0
    assert lease.renew_if_due() is JOB
    assert 0.0 < lease.wake_at_s - time.monotonic() <= 1.0


def test_an_outcome_is_offered_until_it_is_taken_and_the_lease_kept_meanwhile():
    queue = Queue(QueueUnavailable("away"), JOB, KeyError("odd"), QueueUnavailable("away"))
    settling = Settling(GuardedQueue(queue), WorkerMetrics())
    settling.offer(CLAIM, DONE)
    assert settling.busy
    wait_until(lambda: settling.try_if_due() or not settling.busy)
    assert queue.calls == ["settle", "renew", "settle", "renew", "settle"]


@pytest.mark.parametrize("answers", [[LeaseLost("over")], [QueueUnavailable("away"), LeaseLost("over")]])
def test_an_outcome_of_a_job_that_is_anothers_is_dropped(answers):
    metrics = WorkerMetrics()
    settling = Settling(GuardedQueue(Queue(*answers)), metrics)
    settling.offer(CLAIM, DONE)
    assert not settling.busy
    assert metrics.registry.get_sample_value("tal_lease_lost_total") == 1


def test_an_outcome_is_given_up_in_the_end(monkeypatch, caplog):
    monkeypatch.setattr(settle_module, "LEAST_PATIENCE_S", 0.05)
    settling = Settling(GuardedQueue(Queue(*[QueueUnavailable("away")] * 1000)), WorkerMetrics())
    settling.offer(CLAIM, DONE)
    wait_until(lambda: settling.try_if_due() or not settling.busy)
    assert "its outcome is given up" in caplog.text


def test_a_worker_is_unready_once_its_beats_are_not_answered(monkeypatch):
    class Child:
        usable, models = True, {}

    queue = Queue()
    presence = Presence(GuardedQueue(queue), "one", ("high",))
    assert presence.unready(Child(), draining=False) == "the queue does not answer"
    presence.beat_if_due(Child(), None, draining=False)
    presence.beat_if_due(Child(), None, draining=False)
    assert queue.calls == ["beat"]
    assert presence.unready(Child(), draining=False) is None
    assert presence.unready(Child(), draining=True) == "draining"
    assert presence.unready(None, draining=False) == "the models are not loaded"
    queue.answers = [KeyError("odd")] * 10
    monkeypatch.setattr("service.worker.presence.LATE_S", -1.0)
    presence.beat_soon()
    presence.beat_if_due(Child(), None, draining=False)
    assert presence.unready(Child(), draining=False) == "the queue does not answer"


# A job.


class DeafChild:
    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message["kind"])


def test_a_lost_lease_outranks_other_verdicts_and_puts_nothing_off():
    child = DeafChild()
    run = JobRun(CLAIM, child, Limits(), Lease(GuardedQueue(Queue()), CLAIM, WorkerMetrics()))
    run.stop(LOST)
    kill_at_s = run.kill_at_s
    run.stop(LOST)
    assert run.kill_at_s == kill_at_s
    run.stop(HAND_BACK)
    assert run.verdict is LOST
    assert run.kill_at_s <= time.monotonic()
    assert run.outcome_of_death("SIGKILL") is None
    assert child.sent == ["cancel"]


# The store, the metrics.


class BrokenStore:
    def put(self, *_):
        raise OSError("input/output error")

    path = put


def test_a_store_that_fails_costs_an_attempt(tmp_path):
    with pytest.raises(Unavailable, match="input/output error"):
        stored_files.find_video(BrokenStore(), JOB.request.video)
    with pytest.raises(Unavailable, match="input/output error"):
        stored_files.keep_result(BrokenStore(), "x" * 70_000)
    assert stored_files.keep_result(BrokenStore(), "{}").text == "{}"
    assert stored_files.keep_result(LocalStore(tmp_path, 0), "x" * 70_000).key is not None


def test_an_errand_that_takes_long_keeps_nobody_and_tells_its_end():
    go_on = threading.Event()
    errand = Errand(lambda: go_on.wait(20) and "found")
    assert not errand.is_done
    go_on.set()
    wait_until(lambda: errand.is_done)
    assert errand.outcome() == "found"
    with pytest.raises(OSError, match="input/output error"):
        Errand(BrokenStore().path).outcome()


def test_a_message_to_the_model_process_carries_the_store_it_is_to_use():
    setup = ExecutorSetup(models={}, store=StoreAddress("s3://bucket/prefix", 1, "/cache", 2))
    assert ExecutorSetup.from_message(json.loads(json.dumps(setup.to_message()))) == setup
    assert ExecutorSetup.from_message(json.loads(json.dumps(ExecutorSetup(models={}).to_message()))).store is None


def test_the_document_names_every_metric_and_every_reason():
    text = (Path(ROOT) / "docs" / "worker.md").read_text()
    families = list(WorkerMetrics().registry.collect())
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert names <= set(re.findall(r"`(tal_[a-z_]+)", text))
    reasons = text.split("Restart reasons:")[1]
    assert all(f"`{reason}`" in reasons for reason in get_args(RestartReason))


def test_a_result_that_cannot_be_measured_is_told_in_the_log_alone(caplog):
    WorkerMetrics().measured({"stages_s": {}, "video_s": -1.0, "frames": -1}, 1.0)
    assert "could not be measured" in caplog.text


def test_silence_counts_from_when_a_process_was_told_of_its_job():
    run = JobRun(CLAIM, DeafChild(), Limits(stall_s=60.0), Lease(GuardedQueue(Queue()), CLAIM, WorkerMetrics()))
    run.heard_s -= 61.0  # the store took so long to find the video
    run.send("clip.mp4")
    assert run.watch() is None


def test_only_batches_halved_on_a_gpu_count_as_its_memory():
    metrics = WorkerMetrics()
    done = {"stages_s": {}, "video_s": 1.0, "frames": 1, "decoder": "pyav", "segments": 0, "features": None}
    done |= {"batches": {}}
    metrics.measured({**done, "gpu_oom": False}, 1.0)
    assert metrics.registry.get_sample_value("tal_gpu_oom_total") == 0
    metrics.measured({**done, "gpu_oom": True}, 1.0)
    assert metrics.registry.get_sample_value("tal_gpu_oom_total") == 1


def test_runs_of_models_are_told_by_their_size_and_how_full_they_were(caplog):
    metrics = WorkerMetrics()
    done = {"stages_s": {}, "video_s": 1.0, "frames": 1, "decoder": "pyav", "segments": 0, "features": None}
    done |= {"gpu_oom": False, "batches": {"stream rgb": {"8": 3, "4": 1}, "detector": {"1": 1}}}
    metrics.measured(done, 1.0)
    value = metrics.registry.get_sample_value
    assert value("tal_batch_size_sum", {"part": "stream"}) == 28
    assert value("tal_batch_fill_ratio_sum", {"part": "stream"}) == 3.5
    assert value("tal_batch_size_count", {"part": "detector"}) == 1
    metrics.measured({**done, "batches": {"": {"x": 1}}}, 1.0)
    assert "could not be measured" in caplog.text
