"""A queue and a store in; jobs taken, watched and settled, until a signal ends it, out. Runs no model itself.

One thread waits for messages of the model process, for signals and for the next thing that is due, so that leases are
renewed and limits kept whatever a model, a decoder or a driver does in the other process.
"""

from __future__ import annotations

import logging
import math
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.errors import LeaseLost, QueueUnavailable, TalError
from service.jobs.artifacts import ArtifactStore
from service.jobs.job import Priority
from service.jobs.queue import Claim, Failed, JobQueue, Outcome, Succeeded
from service.jobs.queue_gauges import QueueGauges
from service.worker.child import Child, ExecutorSetup
from service.worker.children import Children, told_refusal
from service.worker.errand import Errand
from service.worker.executor import REFUSED
from service.worker.gpu_memory import GpuMemory
from service.worker.guarded_queue import GuardedQueue
from service.worker.job_run import CANCEL, HAND_BACK, LOST, JobRun, Limits, Verdict, describe, failure_of
from service.worker.lease import QUEUE_PAUSE_S, Lease
from service.worker.messages import Message
from service.worker.metrics import WorkerMetrics
from service.worker.presence import Presence
from service.worker.probes import METRICS, Answer, probed, serving
from service.worker.settling import Settling
from service.worker.signals import Signals
from service.worker.stored_files import find_video, keep_result

POLL_S = 0.15
WATCH_S = 0.25
ERRAND_S = 0.05

log = logging.getLogger("tal.worker")


@dataclass(frozen=True)
class WorkerSetup:
    """How a worker behaves; `metrics_port` None serves no metrics, 0 takes any port. `command` starts its process."""

    id: str
    priorities: tuple[Priority, ...] = ("high", "normal", "low")
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 30.0
    metrics_port: int | None = None
    gpu_index: int = 0
    command: Sequence[str] = ()


class Supervisor:
    def __init__(
        self, queue: JobQueue, store: ArtifactStore, setup: WorkerSetup, find_setup: Callable[[], ExecutorSetup]
    ) -> None:
        self._queue = GuardedQueue(queue)
        self._store = store
        self._setup = setup
        self._children = Children(find_setup, setup.limits.stall_s, setup.command)
        self._signals = Signals()
        self._metrics = WorkerMetrics()
        self._metrics.registry.register(QueueGauges(queue, store))
        self._metrics.registry.register(GpuMemory(setup.gpu_index))
        self._presence = Presence(self._queue, setup.id, setup.priorities)
        self._settling = Settling(self._queue, self._metrics)
        self._run: JobRun | None = None
        self._where = ""
        self._drain_at_s = math.inf
        self._once_ready = False
        self._status: int | None = None
        self._poll_at_s = 0.0

    def run(self) -> int:
        """Works until it is told to end; the exit status."""
        with self._signals, serving(self._setup.metrics_port, self._answers()) as port:
            self._where = f", metrics on port {port}" if port else ""
            try:
                while self._status is None:
                    self._turn()
            finally:
                self._children.close()
                self._presence.leave()
                log.info("worker %s ended", self._setup.id)
        return self._status or 0

    # What one turn does, in this order: signals, processes, the job, the queue; then it waits.

    def _turn(self) -> None:
        self._presence.turned()
        self._heed_signals()
        self._swap()
        if not self._signals.ending:
            self._children.start_if_due()
        for child in self._children.silent():
            log.warning("model process %s killed: it loaded models for too long without a sign of life", child.pid)
            child.kill("stall")
        for child in self._children.unburied():
            self._lost(child)
        self._settling.try_if_due()
        self._renew()
        self._listen(0.0)  # what was said while the queue kept us waiting is no silence
        self._come_back()
        self._watch()
        self._presence.beat_if_due(
            self._children.current, self._run.job.id if self._run else None, draining=self._signals.ending
        )
        self._take()
        if self._status is None:
            self._wait()

    def _heed_signals(self) -> None:
        if self._signals.reload:
            self._signals.reload = False
            self._reload()
        if not self._signals.ending:
            return
        if self._drain_at_s == math.inf:
            log.info("draining: takes no more jobs")
            self._drain_at_s = time.monotonic() + self._setup.drain_s
            self._presence.beat_soon()
        if self._run and (self._signals.at_once or time.monotonic() >= self._drain_at_s):
            self._stop(self._run, HAND_BACK)
        if not self._run and (self._signals.at_once or not self._settling.busy):
            self._status = 0

    def _reload(self) -> None:
        log.info("reload: reads the models again")
        try:
            self._children.reload()
        except TalError as error:
            self._reload_failed(f"{error} [{error.code}]")
        except Exception as error:
            log.exception("the models cannot even be looked for")
            self._reload_failed(str(error))

    def _reload_failed(self, why: str) -> None:
        log.error("reload failed, the old models stay: %s", why)
        self._metrics.reloaded("failed")

    def _swap(self) -> None:
        successor = self._children.successor
        if successor is None or not successor.usable or self._run:
            return
        self._children.succeed()
        self._metrics.reloaded("succeeded")
        self._metrics.restarted("reload")
        self._announce(successor)

    def _announce(self, child: Child) -> None:
        self._metrics.serves(child.models)
        self._presence.beat_soon()
        self._once_ready = True
        name, about = next(iter(child.models.items()))
        told = f"model {name} {about['version']} ({about['provider']}), serves {', '.join(child.models)}"
        print(f"worker {self._setup.id} ready: {told}{self._where}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        run = self._run
        if run is None or run.child.killed_for:
            return
        if verdict := LOST if run.lease.is_lost else run.watch():
            self._stop(run, verdict)
        if run.verdict and not run.answered and time.monotonic() >= run.kill_at_s:
            run.child.kill(run.verdict.reason)
            run.kill_at_s = math.inf

    def _stop(self, run: JobRun, verdict: Verdict) -> None:
        if run.answered and verdict is not LOST:
            return  # the result only has to be kept
        if run.verdict is None:
            log.info("%s is stopped: %s", run.label, verdict.reason)
        if run.errand:
            self._finish(run, verdict.outcome)
        else:
            run.stop(verdict)

    def _renew(self) -> None:
        if self._run and (job := self._run.lease.renew_if_due()) and job.state == "canceling":
            self._stop(self._run, CANCEL)

    def _take(self) -> None:
        child = self._children.current
        if self._run or self._settling.busy or self._signals.ending or not child or not child.usable:
            return
        if time.monotonic() < self._poll_at_s:
            return
        self._poll_at_s = time.monotonic() + POLL_S
        try:
            claim = self._queue.take(self._setup.id, list(child.models), self._setup.priorities)
        except (QueueUnavailable, LeaseLost) as error:
            log.warning("no job can be taken: %s", error)
            self._poll_at_s = time.monotonic() + QUEUE_PAUSE_S
            return
        if claim:
            self._begin(claim, child)

    def _begin(self, claim: Claim, child: Child) -> None:
        self._metrics.took(claim.job, time.time())
        lease = Lease(self._queue, claim, self._metrics)
        self._run = run = JobRun(claim, child, self._setup.limits, lease)
        self._presence.beat_soon()
        log.info("%s taken: model %s, %.1f s of video", run.label, run.job.request.model, run.job.request.video_s)
        self._ask_store(run, lambda: find_video(self._store, run.job.request.video), lambda path: run.send(str(path)))

    def _ask_store(self, run: JobRun, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """A store that is slow, or far away, keeps no lease from being renewed."""
        run.errand, run.then = Errand(call), then
        self._come_back()

    def _come_back(self) -> None:
        run = self._run
        if run is None or run.errand is None or not run.errand.is_done:
            return
        errand, run.errand = run.errand, None
        try:
            run.then(errand.outcome())
        except TalError as error:
            self._finish(run, Failed(failure_of(error)))

    def _wait(self) -> None:
        now_s = time.monotonic()
        due_s = min(self._presence.wake_at_s, self._settling.wake_at_s, now_s + 1.0)
        if not self._signals.ending:
            due_s = min(due_s, self._children.wake_at_s)
        if self._run:
            watch_s = ERRAND_S if self._run.errand else WATCH_S
            due_s = min(due_s, self._run.lease.wake_at_s, self._run.kill_at_s, now_s + watch_s)
        elif self._children.current and self._children.current.usable and not self._settling.busy:
            due_s = min(due_s, self._poll_at_s)
        self._listen(max(0.0, due_s - now_s))

    def _listen(self, wait_s: float) -> None:
        waiting: list[Child | Signals] = [self._signals, *self._children.living]
        for source in select.select(waiting, [], [], wait_s)[0]:
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
                self._hear(self._run, message)

    def _hear(self, run: JobRun, message: Message) -> None:
        if message["kind"] == "done":
            self._keep(run, message)
        elif message["kind"] in {"failed", "canceled"}:
            if trace := message.get("trace"):
                log.error("%s failed by a defect:\n%s", run.label, trace)
            if message.get("gpu_suspect"):
                run.child.kill("cuda")
            self._finish(run, run.outcome_of(message))
        elif progress := run.hear(message):
            run.lease.report(progress)

    def _keep(self, run: JobRun, message: Message) -> None:
        """A result that came in spite of a verdict counts: it is there. One of a job that is another's does not."""
        if run.lease.is_lost:
            self._finish(run, None)
            return
        run.answered = True
        self._metrics.measured(message, time.monotonic() - run.began_s)
        self._ask_store(
            run,
            lambda: keep_result(self._store, message["text"]),
            lambda stored: self._finish(run, None if run.lease.is_lost else Succeeded(stored)),
        )

    def _lost(self, child: Child) -> None:
        is_current, was_ready = child is self._children.current, child.ready
        cause = self._children.lose(child)
        if not is_current:
            self._reload_failed(told_refusal(child))
            return
        reason = child.killed_for or "crash"
        self._metrics.restarted(reason)
        self._presence.beat_soon()
        if not was_ready:
            self._not_started(child, cause)
            return
        log.warning("model process %s ended (%s): %s", child.pid, cause, reason)
        if self._run and not self._run.answered:
            self._finish(self._run, self._run.outcome_of_death(cause))

    def _not_started(self, child: Child, cause: str) -> None:
        log.error("the models could not be loaded (%s): %s", cause, told_refusal(child))
        if not self._once_ready and child.refusal and child.refusal["model_fault"]:
            self._status = REFUSED

    def _finish(self, run: JobRun, outcome: Outcome | None) -> None:
        self._run = None
        self._presence.beat_soon()
        if outcome is None:
            log.warning("%s abandoned", run.label)
            return
        seconds = time.monotonic() - run.began_s
        log.info("%s %s after %.1f s", run.label, describe(outcome), seconds)
        self._metrics.ended(run.job, outcome, seconds)
        self._settling.offer(run.claim, outcome)

    def _answers(self) -> dict[str, Callable[[], Answer]]:
        return {
            "/livez": lambda: probed(self._presence.stuck()),
            "/readyz": lambda: probed(self._presence.unready(self._children.current, draining=self._signals.ending)),
            "/startupz": lambda: probed(None if self._once_ready else "starting"),
            METRICS: lambda: (200, self._metrics.text()),
        }
