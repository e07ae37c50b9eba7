"""Random processes killed under load: every job succeeds, once, and soon."""

from __future__ import annotations

import contextlib
import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.faults.deployment import LEASE_S, Deployment, wait_until
from tests.faults.finding import Finding, Scale
from tests.faults.promises import all_succeeded, clean_end, judge, recoveries_s

RECOVERY_S = LEASE_S + 5.0
VICTIMS = ("model process", "supervisor", "API")


def random_kills(folder: Path, redis_url: str | None, scale: Scale) -> Finding:
    """One victim at a time, the next once the dead one is replaced. A job hit very often would be a dead letter."""
    found = Finding("model process, supervisor or API killed at random", "redis" if redis_url else "sqlite")
    chance = random.Random(5)
    hits: list[tuple[float, str]] = []
    with Deployment(folder, redis_url, max_attempts=10) as deployment, ThreadPoolExecutor(4) as pool:
        deployment.start(faulty=False)
        submitted: list[Future[str]] = []
        for number in range(scale.storm_jobs // scale.jobs_per_kill):
            submitted += [pool.submit(_submit, deployment) for _ in range(scale.jobs_per_kill)]
            place = chance.choice(("worker0", "worker1"))
            hits += _kill_one(found, deployment, VICTIMS[number % 3], place, chance.uniform(0.0, 0.4))
        jobs = deployment.await_end([future.result() for future in submitted])
        judge(found, deployment, jobs)
        all_succeeded(found, jobs)
        found.took(recoveries_s(deployment, hits), RECOVERY_S)
        clean_end(found, deployment)
    return found


def _submit(deployment: Deployment) -> str:
    with deployment.client() as client:
        return client.submit(deployment.clips.fresh()).id


def _kill_one(
    found: Finding, deployment: Deployment, victim: str, place: str, delay_s: float
) -> list[tuple[float, str]]:
    """Kills and replaces; tells when, and which job was under way there."""
    found.kills += 1
    if victim == "API":
        time.sleep(delay_s)
        name = deployment.members["api"].name
        deployment.kill("api")
        deployment.start_api()
        found.broken += deployment.leftovers.orphans_of(name)
        return []
    with contextlib.suppress(TimeoutError):  # an idle one is killed as well
        wait_until(lambda: deployment.running_on(place), 10.0)
    time.sleep(delay_s)
    job = deployment.running_on(place)
    name = deployment.members[place].name
    if victim == "supervisor":
        at_s = deployment.kill(place)
        found.broken += deployment.leftovers.orphans_of(name)
        deployment.start_worker(place, faulty=False)
    else:
        at_s = _kill_model_process(found, deployment, place)
        deployment.await_worker(place)
    return [(at_s, job.id)] if job else []


def _kill_model_process(found: Finding, deployment: Deployment, place: str) -> float:
    child = deployment.model_process(place)
    at_s = time.time()
    if child is not None:
        below = child.children(recursive=True)
        child.kill()
        at_s = time.time()
        _, left = psutil.wait_procs(below, 10.0)
        found.broken += [f"process {one.pid} outlived the model process" for one in left]
    return at_s
