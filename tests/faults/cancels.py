"""Cancels at random instants between a job's submission and its end: canceled or succeeded, and nothing between."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from tests.faults.deployment import Deployment
from tests.faults.finding import Finding, Scale
from tests.faults.promises import judge

LATEST_S = 2.0


def random_cancels(service: Deployment, scale: Scale) -> Finding:
    found = Finding("canceled at random instants", service.backend)
    chance = random.Random(8)
    delays_s = [chance.uniform(0.0, LATEST_S) for _ in range(scale.cancels)]
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda delay_s: _cancel_after(service, delay_s), delays_s))
    jobs = service.await_end(ids)
    judge(found, service, jobs)
    for job in jobs:
        found.expect(job.state in {"canceled", "succeeded"}, f"job {job.id} is {job.state}: {job.failure}")
        found.expect(job.delivery <= 1, f"job {job.id} was delivered {job.delivery} times")
    found.expect(found.outcomes["canceled"], "no cancel came in time")
    return found


def _cancel_after(service: Deployment, delay_s: float) -> str:
    with service.client() as client:
        job = client.submit(service.clips.fresh("slow-4"))
        time.sleep(delay_s)
        client.cancel(job.id)
        client.wait(job.id)
    return job.id
