"""A queue and a store in; jobs taken, watched and settled, until a signal ends it, out. Runs no model itself.

One thread waits for messages of the model process, for signals and for the next thing that is due, so that leases are
renewed and limits kept whatever a model, a decoder or a driver does in the other process.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.errors import DeploymentError, LeaseLost, QueueUnavailable, TalError, WorkerCrashed
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import Failure, Job, Priority
from service.jobs.queue import (
    INLINE_RESULT_BYTES,
    Claim,
    Ended,
    Failed,
    HandedBack,
    JobQueue,
    Outcome,
    StoredResult,
    Succeeded,
    WorkerRecord,
)
from service.worker.child import Child, ExecutorSetup, Message
from service.worker.children import Children, told_refusal
from service.worker.executor import REFUSED
from service.worker.job_run import CANCEL, HAND_BACK, LOST, JobRun, Limits, Verdict, failure_of
from service.worker.metrics import WorkerMetrics
from service.worker.probes import METRICS, Answer, ProbeServer
from service.worker.signals import Signals

POLL_S = 0.15
WATCH_S = 0.25
QUEUE_PAUSE_S = 1.0
# A result that the queue does not take is offered again for so long, or for a lease where that is longer.
LEAST_SETTLE_S = 60.0

log = logging.getLogger("tal.worker")


@dataclass(frozen=True)
class WorkerSetup:
    """How a worker behaves; `metrics_port` None serves no metrics, 0 takes any port. `command` starts its process."""

    id: str
    priorities: tuple[Priority, ...] = ("high", "normal", "low")
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 30.0
    metrics_port: int | None = None
    command: Sequence[str] = ()


@dataclass
class Unsettled:
    """An outcome that the queue has not taken yet."""

    claim: Claim
    outcome: Outcome
    give_up_at_s: float
    next_at_s: float = 0.0
    pause_s: float = 0.1


class Supervisor:
    def __init__(
        self, queue: JobQueue, store: ArtifactStore, setup: WorkerSetup, find_setup: Callable[[], ExecutorSetup]
    ) -> None:
        self._queue = queue
        self._store = store
        self._setup = setup
        self._beat_every_s = min(queue.policy.lease_s, queue.policy.worker_silence_s) / 3
        self._children = Children(find_setup, setup.limits.stall_s, setup.command)
        self._signals = Signals()
        self.metrics = WorkerMetrics()
        self._probes: ProbeServer | None = None
        self._run: JobRun | None = None
        self._unsettled: Unsettled | None = None
        self._drain_at_s = math.inf
        self._once_ready = False
        self._status: int | None = None
        self._answered_s = -math.inf
        self._started_at_s = time.time()
        self._poll_at_s = self._beat_at_s = self._renew_at_s = 0.0
        self._swept = threading.Event()

    def run(self) -> int:
        """Works until it is told to end; the exit status."""
        with self._signals:
            try:
                self._serve_probes()
                self._queue.pair(self._store.id)
                sweeper = threading.Thread(target=self._sweep, daemon=True, name="janitor")
                sweeper.start()
                while self._status is None:
                    self._turn()
            finally:
                self._end()
        return self._status or 0

    def unready(self) -> str | None:
        """Why no job would be done now, if so."""
        if self._signals.ends:
            return "draining"
        child = self._children.current
        if child is None or not child.ready:
            return "the models are not loaded"
        if time.monotonic() - self._answered_s > 3 * self._beat_every_s + QUEUE_PAUSE_S:
            return "the queue does not answer"
        return None

    # What one turn does, in this order: signals, processes, the job, the queue; then it waits.

    def _turn(self) -> None:
        self._heed_signals()
        self._children.start_if_due()
        for child in self._children.silent():
            log.warning("model process %s killed: it loaded models for too long without a sign of life", child.pid)
            self.metrics.restarts.labels("stall").inc()
            child.kill()
        self._swap()
        self._settle()
        self._watch()
        self._renew()
        self._beat()
        self._take()
        if self._status is None:
            self._wait()

    def _heed_signals(self) -> None:
        if self._signals.reload:
            self._signals.reload = False
            self._reload()
        if not self._signals.ends:
            return
        if self._drain_at_s == math.inf:
            log.info("draining: takes no more jobs")
            self._drain_at_s, self._beat_at_s = time.monotonic() + self._setup.drain_s, 0.0
        if self._run and (self._signals.ends > 1 or time.monotonic() >= self._drain_at_s):
            self._stop(HAND_BACK)
        if not self._run and not self._unsettled:
            self._status = 0

    def _reload(self) -> None:
        log.info("reload: reads the models again")
        try:
            self._children.reload()
        except TalError as error:
            self._reload_failed(f"{error} [{error.code}]")

    def _reload_failed(self, why: str) -> None:
        log.error("reload failed, the old models stay: %s", why)
        self.metrics.reloaded("failed")

    def _swap(self) -> None:
        successor = self._children.successor
        if successor is None or not successor.ready or self._run:
            return
        self._children.succeed()
        self.metrics.reloaded("succeeded")
        self.metrics.restarts.labels("reload").inc()
        self._announce(successor)

    def _announce(self, child: Child) -> None:
        self.metrics.serves(child.models)
        self._beat_at_s = 0.0
        self._once_ready = True
        name, about = next(iter(child.models.items()))
        told = f"model {name} {about['version']} ({about['provider']}), serves {', '.join(child.models)}"
        metrics = f", metrics on port {self._probes.port}" if self._probes else ""
        print(f"worker {self._setup.id} ready: {told}{metrics}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        if self._run and (verdict := self._run.watch()):
            self._stop(verdict)
        if self._run and time.monotonic() >= self._run.kill_at_s:
            self._run.child.kill()

    def _stop(self, verdict: Verdict) -> None:
        assert self._run  # noqa: S101  (the caller saw it)
        if self._run.verdict is None:
            log.info("%s is stopped: %s", self._run.label, verdict.reason)
        self._run.stop(verdict)

    def _renew(self) -> None:
        if not self._run or time.monotonic() < self._renew_at_s:
            return
        self._renew_at_s = time.monotonic() + self._queue.policy.lease_s / 3
        job = self._ask(self._queue.renew)
        if job is None:
            self._renew_at_s = min(self._renew_at_s, time.monotonic() + QUEUE_PAUSE_S)
        elif job.state == "canceling":
            self._stop(CANCEL)

    def _ask(self, call: Callable[[Claim], Job | None]) -> Job | None:
        """What concerns the running job: a queue that does not answer stops no work, a lost lease does."""
        assert self._run  # noqa: S101  (the caller saw it)
        try:
            return call(self._run.claim)
        except LeaseLost:
            if self._run.verdict is not LOST:
                self.metrics.lease_lost.inc()
                log.warning("%s was given to another worker", self._run.label)
            self._run.verdict = None
            self._stop(LOST)
        except QueueUnavailable as error:
            log.warning("the queue does not answer, the job goes on: %s", error)
        return None

    def _beat(self) -> None:
        if time.monotonic() < self._beat_at_s:
            return
        self._beat_at_s = time.monotonic() + self._beat_every_s
        child, run = self._children.current, self._run
        record = WorkerRecord(
            id=self._setup.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at_s=self._started_at_s,
            ready=bool(child and child.ready and not self._signals.ends),
            models=child.models if child else {},
            priorities=self._setup.priorities,
            job_id=run.job.id if run else None,
            beat_at_s=time.time(),
        )
        try:
            self._queue.beat(record)
            self._answered_s = time.monotonic()
        except QueueUnavailable as error:
            log.warning("the queue does not answer: %s", error)

    def _take(self) -> None:
        child = self._children.current
        if self._run or self._unsettled or self._signals.ends or not child or not child.ready:
            return
        if time.monotonic() < self._poll_at_s:
            return
        self._poll_at_s = time.monotonic() + POLL_S
        try:
            claim = self._queue.take(self._setup.id, list(child.models), self._setup.priorities)
        except QueueUnavailable as error:
            log.warning("no job can be taken: %s", error)
            self._poll_at_s += QUEUE_PAUSE_S
            return
        if claim:
            self._begin(claim, child)

    def _begin(self, claim: Claim, child: Child) -> None:
        self.metrics.took(claim.job, time.time())
        self._run = run = JobRun(claim, child, self._setup.limits)
        self._renew_at_s, self._beat_at_s = time.monotonic() + self._queue.policy.lease_s / 3, 0.0
        log.info("%s taken: model %s, %.1f s of video", run.label, run.job.request.model, run.job.request.video_s)
        try:
            path = self._store.path("video", claim.job.request.video.key)
        except TalError as error:
            self._finish(Failed(failure_of(error)))
            return
        run.send(str(path))

    def _wait(self) -> None:
        now_s = time.monotonic()
        due_s = min(self._beat_at_s, self._children.wake_at_s, now_s + 1.0)
        if self._run:
            due_s = min(due_s, self._renew_at_s, self._run.kill_at_s, now_s + WATCH_S)
        elif self._unsettled:
            due_s = min(due_s, self._unsettled.next_at_s)
        elif self._children.current and self._children.current.ready:
            due_s = min(due_s, self._poll_at_s)
        waiting: list[Child | Signals] = [self._signals, *self._children.living]
        for source in select.select(waiting, [], [], max(0.0, due_s - now_s))[0]:
            if isinstance(source, Signals):
                source.clear()
            elif source in self._children.living:
                self._read(source)

    # What a model process says, and how it ends.

    def _read(self, child: Child) -> None:
        messages = child.receive()
        if messages is None:
            self._lost(child)
            return
        self._children.heard(child, messages)
        for message in messages:
            if message["kind"] == "ready" and child is self._children.current:
                self._announce(child)
            elif self._run and child is self._run.child and message.get("job") == self._run.job.id:
                self._hear(message)

    def _hear(self, message: Message) -> None:
        run = self._run
        assert run  # noqa: S101  (the caller saw it)
        if message["kind"] == "done":
            self._finish_with_result(run, message)
        elif message["kind"] in {"failed", "canceled"}:
            self._finish(run.verdict.outcome if run.verdict else _failed(message))
            if trace := message.get("trace"):
                log.error("%s failed by a defect:\n%s", run.label, trace)
        elif progress := run.hear(message):
            self._ask(lambda claim: self._queue.report(claim, progress))

    def _finish_with_result(self, run: JobRun, message: Message) -> None:
        if run.verdict and run.verdict.reason == "lease":
            self._finish(None)
            return
        self.metrics.measured(message, time.monotonic() - run.began_s)
        try:
            self._finish(Succeeded(self._stored(message["text"])))
        except TalError as error:
            self._finish(Failed(failure_of(error)))

    def _stored(self, text: str) -> StoredResult:
        data = text.encode()
        if len(data) <= INLINE_RESULT_BYTES:
            return StoredResult(text=text)
        return StoredResult(key=self._store.put("result", data).key)

    def _lost(self, child: Child) -> None:
        is_current, was_ready = child is self._children.current, child.ready
        run = self._run if self._run and self._run.child is child else None
        cause = self._children.lose(child)
        if not is_current:
            self._reload_failed(told_refusal(child))
            return
        self._beat_at_s = 0.0
        if not was_ready:
            self._not_started(child, cause)
            return
        reason = run.verdict.reason if run and run.verdict else "crash"
        log.warning("model process %s ended (%s): %s", child.pid, cause, reason)
        self.metrics.restarts.labels(reason).inc()
        if run:
            crash = WorkerCrashed(f"The process that ran the model died ({cause})")
            self._finish(run.verdict.outcome if run.verdict else Failed(failure_of(crash)))

    def _not_started(self, child: Child, cause: str) -> None:
        log.error("the models could not be loaded (%s): %s", cause, told_refusal(child))
        self.metrics.restarts.labels("crash").inc()
        if not self._once_ready and child.refusal and child.refusal["model_fault"]:
            self._status = REFUSED

    # The end of a job.

    def _finish(self, outcome: Outcome | None) -> None:
        run, self._run = self._run, None
        assert run  # noqa: S101  (the caller saw it)
        self._beat_at_s = 0.0
        if outcome is None:
            log.warning("%s abandoned", run.label)
            return
        seconds = time.monotonic() - run.began_s
        log.info("%s %s after %.1f s", run.label, _described(outcome), seconds)
        self.metrics.ended(run.job, outcome, seconds)
        patience_s = max(self._queue.policy.lease_s, LEAST_SETTLE_S)
        self._unsettled = Unsettled(run.claim, outcome, time.monotonic() + patience_s)
        self._settle()

    def _settle(self) -> None:
        """Again and again until the queue has taken it, or tells that it is another worker's by now."""
        waiting, now_s = self._unsettled, time.monotonic()
        if waiting is None or now_s < waiting.next_at_s:
            return
        try:
            self._queue.settle(waiting.claim, waiting.outcome)
        except QueueUnavailable as error:
            waiting.next_at_s, waiting.pause_s = now_s + waiting.pause_s, min(2 * waiting.pause_s, 5.0)
            if now_s < waiting.give_up_at_s:
                return
            log.error("job %s: its outcome is given up: %s", waiting.claim.job.id, error)
        except LeaseLost:
            self.metrics.lease_lost.inc()
            log.warning("job %s was given to another worker; this outcome is dropped", waiting.claim.job.id)
        except TalError as error:  # such as a job that was deleted
            log.warning("job %s: its outcome is dropped: %s", waiting.claim.job.id, error)
        self._unsettled = None

    # Around the work.

    def _serve_probes(self) -> None:
        if self._setup.metrics_port is not None:
            answers = {
                "/livez": lambda: (200, b"ok\n"),
                "/readyz": lambda: _probe(self.unready()),
                "/startupz": lambda: _probe(None if self._once_ready else "starting"),
                METRICS: lambda: (200, self.metrics.text()),
            }
            self._probes = ProbeServer(self._setup.metrics_port, answers)

    def _sweep(self) -> None:
        while not self._swept.wait(self._beat_every_s):
            try:
                self._queue.sweep()
            except TalError as error:
                log.warning("housekeeping failed: %s", error)

    def _end(self) -> None:
        self._swept.set()
        self._children.close()
        try:
            self._queue.leave(self._setup.id)
        except (QueueUnavailable, DeploymentError) as error:
            log.warning("the queue still lists this worker for a while: %s", error)
        if self._probes:
            self._probes.close()
        log.info("worker %s ended", self._setup.id)


def _failed(message: Message) -> Outcome:
    if message["kind"] == "canceled":
        return HandedBack()  # nobody asked for it: never seen, and then nothing is lost
    return Failed(Failure(message["code"], message["message"], message["retryable"]))


def _described(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return f"failed: {outcome.failure.message} [{outcome.failure.code}]"
    if isinstance(outcome, Ended):
        return outcome.state
    return "handed back" if isinstance(outcome, HandedBack) else "succeeded"


def _probe(trouble: str | None) -> Answer:
    return (503, f"{trouble}\n".encode()) if trouble else (200, b"ok\n")
