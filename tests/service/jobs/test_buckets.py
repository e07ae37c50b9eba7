"""What buckets of tokens promise, in memory and in Redis."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator

import pytest

from service.jobs import buckets as memory
from service.jobs.buckets import Buckets, MemoryBuckets
from service.jobs.redis_buckets import RedisBuckets


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.needs_redis)])
def buckets(request: pytest.FixtureRequest) -> Iterator[Buckets]:
    made: Buckets
    if request.param == "memory":
        made = MemoryBuckets()
    else:
        made = RedisBuckets(request.getfixturevalue("redis_url"), f"t{secrets.token_hex(6)}")
    yield made
    made.close()


def test_a_burst_goes_through_and_then_one_has_to_wait(buckets: Buckets) -> None:
    assert [buckets.take("a", 0.1, 3) for _ in range(3)] == [0.0] * 3
    assert 9.0 < buckets.take("a", 0.1, 3) <= 10.0
    assert buckets.take("b", 0.1, 3) == 0.0


def test_who_waits_as_long_as_was_said_gets_a_token(buckets: Buckets) -> None:
    assert buckets.take("a", 10.0, 1) == 0.0
    wait_s = buckets.take("a", 10.0, 1)
    assert 0.0 < wait_s <= 0.1
    began_s = time.monotonic()
    while buckets.take("a", 10.0, 1):
        assert time.monotonic() < began_s + 10
        time.sleep(0.002)
    assert time.monotonic() - began_s > wait_s - 0.02


def test_a_refusal_costs_nothing(buckets: Buckets) -> None:
    buckets.take("a", 0.1, 1)
    waits = [buckets.take("a", 0.1, 1) for _ in range(20)]
    assert all(0.0 < wait_s <= 10.0 for wait_s in waits)


def test_threads_get_as_many_as_there_are(buckets: Buckets) -> None:
    got: list[float] = []
    threads = [
        threading.Thread(target=lambda: got.extend(buckets.take("a", 0.001, 10) for _ in range(5))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), got.count(0.0)) == (30, 10)


@pytest.mark.needs_redis
def test_processes_share_the_buckets_of_a_redis_which_keeps_none_that_is_full(redis_url: str) -> None:
    import redis

    namespace = f"t{secrets.token_hex(6)}"
    one, other = RedisBuckets(redis_url, namespace), RedisBuckets(redis_url, namespace)
    with redis.Redis.from_url(redis_url) as client:
        assert [one.take("a", 50.0, 2), other.take("a", 50.0, 2)] == [0.0, 0.0]
        assert one.take("a", 50.0, 2) > 0
        key = f"{{{namespace}}}:bucket:a"
        assert 0 < client.pttl(key) <= 40
        ends_at_s = time.monotonic() + 10
        while client.exists(key):
            assert time.monotonic() < ends_at_s
            time.sleep(0.01)
    one.close()
    other.close()


def test_buckets_that_are_full_are_forgotten_in_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(memory, "MOST_BUCKETS", 3)
    buckets = MemoryBuckets(lambda: now_s)
    for name in "abc":
        buckets.take(name, 1.0, 1)
    now_s = 0.5
    buckets.take("d", 1.0, 1)
    assert buckets.take("a", 1.0, 1) == pytest.approx(0.5)
    now_s = 1.2
    buckets.take("e", 1.0, 1)
    assert len(buckets._full_at_s) == 2
