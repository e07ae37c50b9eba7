"""A Redis that dies, or stops answering, under load: no job that was accepted is lost."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.faults.deployment import Deployment
from tests.faults.finding import Finding, Scale
from tests.faults.promises import all_succeeded, clean_end, judge
from tests.service.jobs.redis_server import RedisServer

DOWN_S = 1.0
KILLS = 3


def redis_killed(folder: Path, scale: Scale) -> Finding:
    found = Finding("redis-server killed and started on its append-only file", "redis")

    def kill_it(server: RedisServer) -> None:
        server.kill()
        time.sleep(DOWN_S)
        server.start()
        found.kills += 1

    _under_load(folder, scale, found, [kill_it] * KILLS)
    return found


def redis_paused(folder: Path, scale: Scale) -> Finding:
    found = Finding(f"redis-server stopped for {scale.pause_s:g} s", "redis")

    def pause_it(server: RedisServer) -> None:
        server.pause()
        time.sleep(scale.pause_s)
        server.resume()

    _under_load(folder, scale, found, [pause_it])
    return found


def _under_load(folder: Path, scale: Scale, found: Finding, outages) -> None:
    """An outage comes with each part of the jobs, while they are submitted and run."""
    data = folder / "redis"
    data.mkdir(parents=True)
    with RedisServer(data) as server, Deployment(folder, server.url, max_attempts=10) as service:
        service.start()
        with ThreadPoolExecutor(4) as pool:
            submitted: list[Future[str]] = []
            for outage in outages:
                share = range(scale.outage_jobs // len(outages))
                submitted += [pool.submit(submit, service, "slow-3") for _ in share]
                time.sleep(1.0)
                outage(server)
        jobs = service.await_end([future.result() for future in submitted])
        judge(found, service, jobs)
        all_succeeded(found, jobs)
        clean_end(found, service)


def submit(service: Deployment, kind: str = "plain", place: str = "api") -> str:
    with service.client(place) as client:
        return client.submit(service.clips.fresh(kind)).id
