"""Jobs that went through a fault in; the promises about them that do not hold, and how long recoveries took, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import httpx

from service.jobs.job import FINISHED, Job
from tests.faults.deployment import Deployment
from tests.faults.finding import Finding

FIRST_PAUSE_S = 2.0


def judge(found: Finding, deployment: Deployment, jobs: Sequence[Job]) -> None:
    """What holds for every job, however it ended."""
    found.jobs += len(jobs)
    found.outcomes += Counter(job.state for job in jobs)
    with deployment.http() as http:
        for job in jobs:
            found.broken += _inconsistencies(deployment, http, job)


def all_succeeded(found: Finding, jobs: Sequence[Job]) -> None:
    for job in jobs:
        why = f" ({job.failure.message})" if job.failure else ""
        found.expect(job.state == "succeeded", f"job {job.id} is {job.state}{why}")


def clean_end(found: Finding, deployment: Deployment) -> None:
    """Everything is ended, and then nothing may be left."""
    deployment.leftovers.age_incoming()
    deployment.store.sweep("video", 1e9, lambda _: set())
    found.broken += [f"{name} is left of an upload" for name in deployment.leftovers.incoming()]
    for place in list(deployment.members):
        deployment.kill(place)
    found.broken += deployment.leftovers.at_end()


def recoveries_s(deployment: Deployment, hits: Sequence[tuple[float, str]]) -> list[float]:
    """From each kill to the job's next delivery, less what a later attempt's pause is longer than the first one's.

    A job that had ended before the kill, although it was seen running, was not hit.
    """
    return [took for at_s, job_id in hits if (took := _recovery_s(deployment.states(job_id), at_s)) is not None]


def _recovery_s(states: list[tuple[float, str]], killed_at_s: float) -> float | None:
    later = [(at_s, state) for at_s, state in states if at_s >= killed_at_s]
    if not later or later[0][1] != "queued":
        return None
    again_s = next((at_s for at_s, state in later if state == "running"), None)
    if again_s is None:
        return None
    deliveries = sum(state == "running" for at_s, state in states if at_s < killed_at_s)
    pause_s = FIRST_PAUSE_S * 2 ** (deliveries - 1)
    return again_s - killed_at_s - (pause_s - FIRST_PAUSE_S)


def _inconsistencies(deployment: Deployment, http: httpx.Client, job: Job) -> list[str]:
    states = [state for _, state in deployment.states(job.id)]
    ends = [state for state in states if state in FINISHED]
    broken = []
    if ends != [job.state] or states[-1] != job.state:
        broken.append(f"job {job.id} is {job.state}, its events tell {', '.join(states)}")
    if states.count("running") != job.delivery:
        broken.append(f"job {job.id} was delivered {job.delivery} times, its events tell {states.count('running')}")
    answer = http.get(f"/v1/jobs/{job.id}/result")
    if (answer.status_code == 200) != (job.state == "succeeded"):
        broken.append(f"job {job.id} is {job.state}, its result answers {answer.status_code}")
    if answer.status_code == 200 and answer.json()["id"] != job.id:
        broken.append(f"job {job.id} has the result of job {answer.json()['id']}")
    return broken
