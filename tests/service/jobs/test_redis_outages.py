"""A Redis that is away for longer than a lease: its workers keep their jobs, and those of dead workers go on later."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import QueueUnavailable
from service.jobs.queue import Claim, HandedBack, JobFilter
from service.jobs.redis_queue import RedisQueue
from tests.service.jobs.harness import LEASE_S, POLICY, request, take, wait_until
from tests.service.jobs.redis_server import RedisServer

pytestmark = pytest.mark.needs_redis

AWAY_S = 1.6 * LEASE_S


def killed(server: RedisServer) -> None:
    server.kill()
    time.sleep(AWAY_S)
    server.start()


def paused(server: RedisServer) -> None:
    server.pause()
    time.sleep(AWAY_S)
    server.resume()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def queue(server: RedisServer) -> Iterator[RedisQueue]:
    queue = RedisQueue(server.url, POLICY)
    yield queue
    queue.close()


def begin(queue: RedisQueue) -> Claim:
    queue.submit(request())
    return take(queue, "owner")


def look(queue: RedisQueue) -> bool:
    """As an idle worker and a janitor do; whether the job went on to another."""
    queue.sweep()
    return queue.take("other", ["m"], ["normal"]) is not None


@pytest.mark.parametrize("outage", [killed, paused])
def test_an_owner_keeps_its_job_over_outages_longer_than_its_lease(
    server: RedisServer, queue: RedisQueue, outage: Callable[[RedisServer], None]
) -> None:
    claim = begin(queue)
    for _ in range(2):
        outage(server)
        assert not look(queue)
        assert (queue.renew(claim).state, queue.renew(claim).attempts) == ("running", 1)


def test_a_first_renewal_after_an_outage_speaks_for_the_other_owners_too(
    server: RedisServer, queue: RedisQueue
) -> None:
    first, second = begin(queue), begin(queue)
    paused(server)
    queue.renew(first)
    assert not look(queue)
    assert queue.renew(second).attempts == 1


def test_a_short_restart_gives_every_owner_a_lease_too(server: RedisServer, queue: RedisQueue) -> None:
    claim = begin(queue)
    until_s = time.monotonic() + 0.7 * LEASE_S
    while time.monotonic() < until_s:
        queue.sweep()
        time.sleep(0.05)
    server.kill()
    server.start()
    began_s = time.monotonic()
    while time.monotonic() < began_s + 0.7 * LEASE_S:
        assert not look(queue)
        time.sleep(0.05)
    assert queue.renew(claim).attempts == 1


def test_the_job_of_a_worker_that_did_not_outlive_the_outage_goes_on(server: RedisServer, queue: RedisQueue) -> None:
    begin(queue)
    paused(server)
    resumed_s = time.monotonic()
    wait_until(lambda: look(queue))
    assert LEASE_S * 0.9 < time.monotonic() - resumed_s < LEASE_S + 5.0


@pytest.mark.parametrize("every_s", [0.2, 1.0])
def test_a_janitor_alone_ends_the_lease_of_a_dead_worker(queue: RedisQueue, every_s: float) -> None:
    begin(queue)
    began_s = time.monotonic()
    while not queue.sweep().requeued:
        assert time.monotonic() - began_s < LEASE_S + 5.0
        time.sleep(every_s)
    assert [job.state for job in queue.find(JobFilter(), 10)] == ["queued"]


def test_owners_renew_on_a_full_server_also_where_nobody_was_heard_before(
    server: RedisServer, queue: RedisQueue
) -> None:
    claim = begin(queue)
    with server.client() as client:
        client.delete("{tal}:heard")
        client.config_set("maxmemory", 1)
    assert queue.renew(claim).state == "running"


def test_a_worker_of_an_earlier_release_has_the_lease_of_whoever_looks(server: RedisServer, queue: RedisQueue) -> None:
    patient = RedisQueue(server.url, dataclasses.replace(POLICY, lease_s=60.0))
    claim = take(patient) if patient.submit(request()) else None
    assert claim is not None
    with server.client() as client:
        client.hdel(f"{{tal}}:job:{claim.job.id}", "lease")
    wait_until(lambda: look(queue))
    patient.close()


def test_a_job_that_an_earlier_release_handed_back_is_next(server: RedisServer, queue: RedisQueue) -> None:
    claim = begin(queue)
    with server.client() as client:
        entry = client.hget(f"{{tal}}:job:{claim.job.id}", "entry")
        queue.settle(claim, HandedBack())
        client.xclaim("{tal}:q:m:normal", "workers", "worker", 0, [entry], idle=round(1000 * LEASE_S * 3), justid=True)
    assert take(queue).job.id == claim.job.id


def test_a_worker_that_leaves_hands_back_a_job_that_it_never_heard_of(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue.submit(request()).job
    with monkeypatch.context() as patched:
        step = queue._redis.step

        def lost(name, /, **args):
            step(name, **args)
            raise QueueUnavailable("no reply came")

        patched.setattr(queue._redis, "step", lost)
        with pytest.raises(QueueUnavailable):
            take(queue)
    assert queue.get(job.id).state == "running"
    queue.leave("w1")
    waiting = queue.get(job.id)
    assert (waiting.state, waiting.attempts) == ("queued", 0)
    assert take(queue, "w2").job.id == job.id


def test_a_worker_that_leaves_a_job_that_it_knows_pays_the_attempt(queue: RedisQueue) -> None:
    claim = begin(queue)
    queue.leave("owner")
    assert queue.get(claim.job.id).state == "running"
