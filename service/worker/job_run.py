"""A claim, and what is seen of the process that works on it, in; a verdict once the job must not go on, out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from service.errors import DeadlinePassed, JobTimeout, TalError, WorkerCrashed, WorkerOutOfMemory, WorkerStalled
from service.jobs.job import Failure, Job
from service.jobs.queue import Claim, Ended, Failed, HandedBack, Outcome
from service.localization import Progress
from service.worker.child import Child
from service.worker.errand import Errand
from service.worker.lease import Lease
from service.worker.messages import Message

MIB = 1024 * 1024
# How long a job may take to heed a cancel before its process is killed.
CANCEL_GRACE_S = 2.0
REPORT_EVERY_S = 0.25

Reason = Literal["cancel", "timeout", "oom", "stall", "lease", "drain"]


@dataclass(frozen=True)
class Limits:
    """Of the process that holds the models: its silence, and its memory (0: none) with all that it started."""

    stall_s: float = 300.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Verdict:
    """How a job is to end that its process did not end; no outcome means that the job is no longer ours."""

    reason: Reason
    outcome: Outcome | None
    at_once: bool = False


@dataclass
class JobRun:
    claim: Claim
    child: Child
    limits: Limits
    lease: Lease
    began_s: float = field(default_factory=time.monotonic)
    heard_s: float = field(default_factory=time.monotonic)
    told_s: float = -math.inf
    stage: str = ""
    verdict: Verdict | None = None
    kill_at_s: float = math.inf
    answered: bool = False
    # What the store was asked for the job, and what then happens with it; its process is idle meanwhile.
    errand: Errand[Any] | None = None
    then: Callable[[Any], None] = field(default=lambda _: None)

    @property
    def job(self) -> Job:
        return self.claim.job

    @property
    def label(self) -> str:
        return f"job {self.job.id} (delivery {self.claim.delivery})"

    def send(self, path: str) -> None:
        request = self.job.request
        options = {name: getattr(request.options, name) for name in request.options.__dataclass_fields__}
        self.child.send(
            {
                "kind": "job",
                "job": self.job.id,
                "path": path,
                "video_name": request.video.name,
                "sha256": request.video.key,
                "model": request.model,
                "options": options,
            }
        )
        self.heard_s = time.monotonic()  # until now it had nothing to do

    def stop(self, verdict: Verdict) -> None:
        """The first verdict counts, unless the job is lost; a later one that cannot wait makes the end come sooner."""
        now_s = time.monotonic()
        if self.verdict is None:
            self.kill_at_s = now_s + CANCEL_GRACE_S
            self.child.send({"kind": "cancel", "job": self.job.id})
        if self.verdict is None or verdict.outcome is None:
            self.verdict = verdict
        if verdict.at_once:
            self.kill_at_s = min(self.kill_at_s, now_s)

    def watch(self) -> Verdict | None:
        """What speaks against going on: its time, its silence, its memory."""
        request, now_s = self.job.request, time.monotonic()
        if request.deadline_at_s is not None and time.time() >= request.deadline_at_s:
            return Verdict(
                "timeout", Ended("expired", failure_of(DeadlinePassed("The job's deadline passed while it ran")))
            )
        if now_s - self.began_s >= request.timeout_s:
            error = JobTimeout(f"The job ran for longer than the {request.timeout_s:g} s that it may")
            return Verdict("timeout", Failed(failure_of(error)))
        if self.errand is None and now_s - self.heard_s >= self.limits.stall_s:
            stall = WorkerStalled(f"The process that runs the model made no progress for {self.limits.stall_s:g} s")
            return Verdict("stall", Failed(failure_of(stall)), at_once=True)
        if self.limits.memory_bytes and (grown := self.child.memory_bytes()) > self.limits.memory_bytes:
            allowed = f"{self.limits.memory_bytes // MIB} MiB"
            oom = WorkerOutOfMemory(f"The process that runs the model takes {grown // MIB} MiB; allowed are {allowed}")
            return Verdict("oom", Failed(failure_of(oom)), at_once=True)
        return None

    def outcome_of(self, message: Message) -> Outcome | None:
        """How the job ends that its process ended without a result: by the verdict, if there is one."""
        if self.verdict:
            return self.verdict.outcome
        if message["kind"] == "canceled":
            return HandedBack()  # nobody asked for it: never seen, and then nothing is lost
        return Failed(Failure(message["code"], message["message"], message["retryable"]))

    def outcome_of_death(self, cause: str) -> Outcome | None:
        if self.verdict:
            return self.verdict.outcome
        return Failed(failure_of(WorkerCrashed(f"The process that ran the model died ({cause})")))

    def hear(self, message: Message) -> Progress | None:
        """Progress worth passing on: every new stage, else a few a second."""
        self.heard_s = time.monotonic()
        if message["kind"] != "progress":
            return None
        is_new = message["stage"] != self.stage
        if not is_new and self.heard_s - self.told_s < REPORT_EVERY_S:
            return None
        self.stage, self.told_s = message["stage"], self.heard_s
        return Progress(message["stage"], message["done"], message["total"])


def describe(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return f"failed: {outcome.failure.message} [{outcome.failure.code}]"
    if isinstance(outcome, Ended):
        return outcome.state
    return "handed back" if isinstance(outcome, HandedBack) else "succeeded"


def failure_of(error: TalError) -> Failure:
    return Failure(error.code, str(error), error.retryable)


CANCEL = Verdict("cancel", Ended("canceled"))
LOST = Verdict("lease", None)
HAND_BACK = Verdict("drain", HandedBack(), at_once=True)
