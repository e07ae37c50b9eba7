"""Random walks: whatever is asked of a queue, in any order, its jobs stand as a simple model says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.errors import JobNotFinished, LeaseLost, QueueFull
from service.jobs.job import FINISHED, PRIORITIES, Failure
from service.jobs.queue import Claim, Ended, Failed, HandedBack, JobFilter, Outcome, StoredResult, Succeeded
from service.localization import Progress
from tests.service.jobs.harness import LEASE_S, Harness, request

MAX_ATTEMPTS = 2
OWNER = "k1"
OUTCOMES: list[Outcome] = [
    Succeeded(StoredResult(text="{}")),
    Failed(Failure("worker_crashed", "it died", retryable=True)),
    Failed(Failure("corrupt_video", "it is bad")),
    Ended("canceled"),
    Ended("expired"),
    HandedBack(),
]


@dataclass
class Known:
    state: str = "queued"
    delivery: int = 0
    attempts: int = 0
    dead: bool = False
    owner: str = ""
    noticed: bool = False

    @property
    def held(self) -> bool:
        return self.state in {"running", "canceling"}

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            self.state = "succeeded"
        elif self.state == "canceling":
            self.state = "canceled"
        elif isinstance(outcome, Ended):
            self.state = outcome.state
        elif isinstance(outcome, HandedBack):
            self.state, self.attempts = "queued", self.attempts - 1
        else:
            self.fail(outcome.failure.retryable)

    def fail(self, retryable: bool) -> None:
        again = retryable and self.attempts < MAX_ATTEMPTS
        self.state, self.dead = "queued" if again else "failed", retryable and not again

    def lapse(self) -> None:
        if self.state == "canceling":
            self.state = "canceled"
        elif self.state == "running":
            self.fail(retryable=True)


class Walk(RuleBasedStateMachine):
    harness: Harness
    most_lapses: int

    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.place = self.harness.fresh()
        self.queue = self.place.open(max_attempts=MAX_ATTEMPTS, retry_delay_s=0.0)
        self.known: dict[str, Known] = {}
        self.versions: dict[str, int] = {}
        self.lapses = 0

    @rule(target=jobs, priority=st.sampled_from(PRIORITIES))
    def submit(self, priority):
        job = self.queue.submit(request(priority=priority)).job
        self.known[job.id] = Known()
        return job.id

    @rule(target=jobs, priority=st.sampled_from(PRIORITIES))
    def submit_for_an_owner(self, priority):
        asked = request(priority=priority, owner=OWNER, webhook="https://example.com/hook")
        allowed_s = asked.video_s * (1 + sum(known.state == "queued" for known in self.known.values() if known.owner))
        with pytest.raises(QueueFull):
            self.queue.submit(asked, owner_video_s=allowed_s - 0.01)
        job = self.queue.submit(asked, owner_video_s=allowed_s).job
        self.known[job.id] = Known(owner=OWNER)
        return job.id

    @rule()
    def notice_the_first(self):
        for job_id in self.queue.notices(1):
            self.queue.noticed(job_id)
            self.known[job_id].noticed = True

    @rule(target=claims, worker=st.sampled_from(["w1", "w2"]))
    def take(self, worker):
        claim = self.queue.take(worker, ("m",), PRIORITIES)
        if claim is None:
            assert not [known for known in self.known.values() if known.state == "queued"]
            return multiple()
        known = self.known[claim.job.id]
        assert known.state == "queued"
        known.state, known.delivery, known.attempts = "running", known.delivery + 1, known.attempts + 1
        assert claim.delivery == known.delivery
        return claim

    @rule(claim=consumes(claims), outcome=st.sampled_from(OUTCOMES), twice=st.booleans())
    def settle(self, claim, outcome, twice):
        known = self.known.get(claim.job.id)
        if known is None or not known.held or known.delivery != claim.delivery:
            with pytest.raises(LeaseLost):
                self.queue.settle(claim, outcome)
            return
        known.settle(outcome)
        job = self.queue.settle(claim, outcome)
        assert not twice or self.queue.settle(claim, outcome) == job

    @rule(claim=claims)
    def renew_and_report(self, claim):
        known = self.known.get(claim.job.id)
        if known is not None and known.held and known.delivery == claim.delivery:
            assert self.queue.renew(claim).state == known.state
            self.queue.report(claim, Progress("decode", 1.0, 2.0))
            return
        with pytest.raises(LeaseLost):
            self.queue.renew(claim)
        with pytest.raises(LeaseLost):
            self.queue.report(claim, Progress("decode", 1.0, 2.0))

    @rule(job_id=jobs)
    def cancel(self, job_id):
        known = self.known.get(job_id)
        if known is None:
            return
        known.state = {"queued": "canceled", "running": "canceling"}.get(known.state, known.state)
        assert self.queue.cancel(job_id).state == known.state

    @rule(job_id=jobs)
    def delete(self, job_id):
        known = self.known.get(job_id)
        if known is None:
            return
        if known.state not in FINISHED:
            with pytest.raises(JobNotFinished):
                self.queue.delete(job_id)
            return
        self.queue.delete(job_id)
        del self.known[job_id], self.versions[job_id]

    @rule()
    def leases_lapse(self):
        if self.lapses < self.most_lapses and any(known.held for known in self.known.values()):
            self.lapses += 1
            self.place.pass_time(LEASE_S * 1.3)
            self.queue.sweep()
            for known in self.known.values():
                known.lapse()

    @invariant()
    def all_is_as_known(self):
        versions = self.queue.versions(list(self.known))
        for job_id, known in self.known.items():
            job = self.queue.get(job_id)
            assert (job.state, job.delivery, job.attempts, job.dead_letter) == (
                known.state,
                known.delivery,
                known.attempts,
                known.dead,
            )
            assert (job.finished_at_s is None) == (known.state not in FINISHED)
            assert versions[job_id] == job.version >= self.versions.get(job_id, 1)
            self.versions[job_id] = job.version
        self.owned_is_as_known()
        stats = self.queue.stats()
        assert sum(stats.queued.values()) == sum(known.state == "queued" for known in self.known.values())
        assert stats.running == sum(known.held for known in self.known.values())

    def owned_is_as_known(self):
        owned = {job_id: known for job_id, known in self.known.items() if known.owner}
        for state in {known.state for known in owned.values()}:
            found = self.queue.find(JobFilter(owner=OWNER, states=(state,)), 1000)
            assert {job.id for job in found} == {job_id for job_id, known in owned.items() if known.state == state}
        ended = {job_id for job_id, known in owned.items() if known.state in FINISHED and not known.noticed}
        notices = self.queue.notices(1000)
        assert set(notices) == ended
        ends = [self.queue.get(job_id).finished_at_s for job_id in notices]
        assert ends == sorted(ends)


def test_any_walk_leaves_the_jobs_as_the_model_says(harness: Harness) -> None:
    real_time = harness.backend == "redis"
    walk = settings(
        max_examples=8 if real_time else 40,
        stateful_step_count=25 if real_time else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    bound = {"harness": harness, "most_lapses": 1 if real_time else 10}
    run_state_machine_as_test(type("BoundWalk", (Walk,), bound), settings=walk)
