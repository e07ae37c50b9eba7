"""Two APIs and two workers restarted in turn under load, behind callers that know both APIs: no request fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.faults.deployment import Deployment
from tests.faults.finding import Finding, Scale
from tests.faults.promises import all_succeeded, clean_end, judge

APIS = ("api", "api-b")
PACE_S = 0.3


class Caller(threading.Thread):
    """Sends videos and asks after them all the time; like a balancer it passes by an API that refuses."""

    def __init__(self, service: Deployment, number: int) -> None:
        super().__init__()
        self._service, self._number = service, number
        self._over = threading.Event()
        self.failures: list[str] = []
        self.requests = 0
        self.ids: list[str] = []

    def run(self) -> None:
        with self._service.http(APIS[0]) as first, self._service.http(APIS[1]) as second:
            doors = itertools.cycle([(first, second), (second, first)])
            while not self._over.is_set():
                self._submit(next(doors))
                if self.ids:
                    self._ask(next(doors), "GET", f"/v1/jobs/{self.ids[-1]}")
                self._over.wait(PACE_S)

    def end(self) -> None:
        self._over.set()
        self.join()

    def _submit(self, doors: Sequence[httpx.Client]) -> None:
        clip = self._service.clips.fresh(f"plain-{self._number}")
        key = self._service.new_key()
        headers = {"Content-Type": "video/mp4", "Prefer": "respond-async", "Idempotency-Key": key}
        query = {"name": clip.name}
        answer = self._ask(doors, "POST", "/v1/detections", params=query, headers=headers, content=clip.read_bytes())
        if answer is not None:
            self.ids.append(answer.json()["id"])

    def _ask(self, doors: Sequence[httpx.Client], method: str, path: str, **more) -> httpx.Response | None:
        self.requests += 1
        refusals = []
        for door in doors:
            try:
                answer = door.request(method, path, **more)
            except httpx.RequestError as error:
                refusals.append(repr(error))
                continue
            if answer.status_code < 400:
                return answer
            refusals.append(f"{answer.status_code} {answer.text[:100]}")
        self.failures.append(f"{method} {path}: {'; '.join(refusals)}")
        return None


def rolling_restart(folder: Path, redis_url: str | None, scale: Scale) -> Finding:
    found = Finding("APIs and workers restarted in turn under load", "redis" if redis_url else "sqlite")
    with Deployment(folder, redis_url, drain_s=2.0) as service:
        service.start_api("api-b", wait=False)
        service.start()
        callers = [Caller(service, number) for number in range(2)]
        for caller in callers:
            caller.start()
        for _ in range(scale.restarts):
            _one_round(found, service)
        for caller in callers:
            caller.end()
        found.outcomes["request"] = sum(caller.requests for caller in callers)
        found.broken += [failure for caller in callers for failure in caller.failures]
        jobs = service.await_end([job_id for caller in callers for job_id in caller.ids])
        judge(found, service, jobs)
        all_succeeded(found, jobs)
        found.expect(all(job.attempts == 1 for job in jobs), "a restart used up an attempt")
        clean_end(found, service)
    return found


def _one_round(found: Finding, service: Deployment) -> None:
    for place in (*APIS, "worker0", "worker1"):
        member = service.terminate(place)
        member.process.wait(60.0)
        found.kills += 1
        found.expect(member.process.returncode == 0, f"{member.name} ended with status {member.process.returncode}")
        found.broken += service.leftovers.orphans_of(member.name)
        if place in APIS:
            service.start_api(place)
        else:
            service.start_worker(place)
        time.sleep(PACE_S)
