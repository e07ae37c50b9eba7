"""What only the Redis backend promises: a server that dies, hangs or is full, and nothing left behind in it."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import InvalidOptions, JobNotFound, QueueFull, QueueUnavailable, QueueUnfit, StoreMismatch
from service.jobs import redis_connection
from service.jobs.job import Failure
from service.jobs.queue import (
    Claim,
    Failed,
    HandedBack,
    Idempotency,
    JobFilter,
    QueuePolicy,
    StoredResult,
    Succeeded,
    WorkerRecord,
)
from service.jobs.redis_queue import RedisQueue
from service.localization import Progress
from tests.service.jobs.harness import POLICY, open_by, request, wait_until
from tests.service.jobs.redis_server import RedisServer

pytestmark = pytest.mark.needs_redis

DONE = Succeeded(StoredResult(text="{}"))
LONG = dataclasses.replace(POLICY, lease_s=60.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def queue(server: RedisServer) -> Iterator[RedisQueue]:
    queue = RedisQueue(server.url, LONG)
    yield queue
    queue.close()


def take(queue: RedisQueue, worker: str = "w") -> Claim:
    claim = queue.take(worker, ["m"], ["high", "normal", "low"])
    assert claim is not None
    return claim


def take_in_another_process(opener: tuple[str, str, str]) -> None:
    queue = open_by(opener)
    claim = queue.take("elsewhere", ["m"], ["normal"])
    assert claim is not None
    queue.settle(claim, DONE)
    queue.close()


def fill_memory(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)


def test_a_server_that_may_evict_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru") as server, pytest.raises(QueueUnfit, match="lru"):
        RedisQueue(server.url)


def test_a_server_of_a_cluster_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as server, pytest.raises(QueueUnfit, match="cluster"):
        RedisQueue(server.url)


def test_a_server_that_keeps_nothing_on_disk_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, "--appendonly", "no") as server, caplog.at_level(logging.WARNING):
        RedisQueue(server.url).close()
    assert "appendonly" in caplog.text


def test_a_server_that_keeps_the_last_second_in_memory_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--appendfsync", "everysec") as server, caplog.at_level(logging.WARNING):
        RedisQueue(server.url).close()
    assert "appendfsync is 'everysec'" in caplog.text


def test_a_sound_server_is_not_warned_about(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        RedisQueue(server.url).close()
    assert caplog.text == ""


def test_a_server_that_may_evict_from_now_on_is_no_longer_ready(
    server: RedisServer, queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        queue.ping()
        monkeypatch.setattr(redis_connection, "_CHECKED_S", 0.0)
        for _ in range(2):
            with pytest.raises(QueueUnfit, match="allkeys-lru"):
                queue.ping()
        client.config_set("maxmemory-policy", "noeviction")
    queue.ping()


def test_a_process_starts_on_a_full_server_that_knows_its_store(server: RedisServer, queue: RedisQueue) -> None:
    queue.pair("store-1")
    fill_memory(server)
    again = RedisQueue(server.url, LONG)
    again.pair("store-1")
    with pytest.raises(StoreMismatch):
        again.pair("store-2")
    again.close()


def test_a_url_that_is_none_is_told_as_such() -> None:
    with pytest.raises(InvalidOptions, match="Redis"):
        RedisQueue("localhost:6379")


def test_no_server_is_unavailable_and_the_password_stays_secret(server: RedisServer) -> None:
    server.kill()
    with pytest.raises(QueueUnavailable, match=str(server.port)) as told:
        RedisQueue(f"redis://:secret@127.0.0.1:{server.port}/0")
    assert "secret" not in str(told.value)


def test_a_killed_server_that_starts_again_has_every_accepted_job_and_every_lease(
    server: RedisServer, queue: RedisQueue
) -> None:
    accepted = [queue.submit(request()).job.id for _ in range(20)]
    running = take(queue)
    queue.report(running, Progress("decode", 1, 2))
    server.kill()
    with pytest.raises(QueueUnavailable):
        queue.ping()
    server.start()
    assert [job.id for job in queue.find(JobFilter(), 100)] == sorted(accepted, reverse=True)
    assert queue.renew(running).progress == Progress("decode", 1, 2)
    assert queue.settle(running, DONE).state == "succeeded"
    assert [take(queue).job.id for _ in range(19)] == [known for known in accepted if known != running.job.id]
    assert queue.take("w", ["m"], ["normal"]) is None


def test_a_server_that_lost_its_data_takes_jobs_again(server: RedisServer, queue: RedisQueue) -> None:
    queue.submit(request())
    with server.client() as client:
        client.flushall()
    assert queue.take("w", ["m"], ["normal"]) is None
    new = queue.submit(request()).job
    assert take(queue).job.id == new.id


def test_a_lost_consumer_group_is_made_again(server: RedisServer, queue: RedisQueue) -> None:
    waiting = queue.submit(request()).job
    with server.client() as client:
        client.xgroup_destroy("{tal}:q:m:normal", "workers")
    assert take(queue).job.id == waiting.id


def test_a_server_that_hangs_is_unavailable_and_then_hands_out_each_job_once(
    server: RedisServer, queue: RedisQueue
) -> None:
    accepted = {queue.submit(request()).job.id for _ in range(2)}
    server.pause()
    with pytest.raises(QueueUnavailable):
        queue.take("w", ["m"], ["normal"])
    server.resume()
    # The take whose reply was lost is done by the server all the same; its job is not kept waiting for a lease.
    wait_until(lambda: queue.stats().running == 1)
    claims = [take(queue), take(queue)]
    assert {claim.job.id for claim in claims} == accepted
    assert [claim.job.attempts for claim in claims] == [1, 1]


def test_a_full_server_accepts_no_job_and_lets_running_ones_end(server: RedisServer, queue: RedisQueue) -> None:
    for _ in range(5):
        queue.submit(request(owner="k1", webhook="https://example.com"))
    first, second, third = take(queue), take(queue), take(queue)
    fill_memory(server)
    with pytest.raises(QueueUnavailable, match="memory"):
        queue.submit(request())
    with pytest.raises(QueueUnavailable):
        queue.ping()
    queue.beat(WorkerRecord("w", "host", 1, 0.0, True, {}, ("normal",)))
    assert queue.renew(first).state == "running"
    assert queue.settle(first, DONE).state == "succeeded"
    assert queue.settle(second, HandedBack()).state == "queued"
    assert queue.settle(third, Failed(Failure("x", "bad"))).state == "failed"
    assert queue.cancel(take(queue).job.id).state == "canceling"
    assert queue.notices() == [first.job.id, third.job.id]
    queue.noticed(third.job.id)
    queue.delete(first.job.id)
    assert queue.notices() == []
    assert [worker.id for worker in queue.workers()] == ["w"]
    assert queue.stats().queued["normal"] == 2


def test_streams_end_with_their_jobs(server: RedisServer, queue: RedisQueue) -> None:
    for number in range(30):
        queue.submit(request(priority=("high", "normal", "low")[number % 3]))
    for number in range(30):
        outcome = Failed(Failure("x", "bad")) if number % 2 else DONE
        queue.settle(take(queue), outcome)
    with server.client() as client:
        assert client.keys("{tal}:q:*") == []
        assert client.exists("{tal}:streams", "{tal}:totals", "{tal}:refs") == 0


def test_no_key_is_left_of_jobs_that_are_gone(server: RedisServer) -> None:
    queue = RedisQueue(server.url, dataclasses.replace(POLICY, keep_jobs_s=0.0, max_attempts=1))
    queue.pair("store")
    for number, outcome in enumerate([DONE, Succeeded(StoredResult(key="cd" * 32)), Failed(Failure("x", "bad", True))]):
        asked = request(tags=("a", "b"), owner="k1", webhook="https://example.com")
        queue.submit(asked, Idempotency(f"key {number}", "print"), owner_video_s=60.0)
        queue.settle(take(queue), outcome)
    queue.submit(request(deadline_at_s=time.time() - 1))
    queue.cancel(queue.submit(request(owner="k1")).job.id)
    wait_until(lambda: queue.sweep().removed == 0 and not queue.find(JobFilter(), 1))
    with server.client() as client:
        assert sorted(client.keys()) == ["{tal}:heard", "{tal}:store"]
    queue.close()


def test_what_an_earlier_release_did_not_count_is_set_right_once_nothing_waits(
    server: RedisServer, queue: RedisQueue
) -> None:
    with server.client() as client:
        job = queue.submit(request(owner="k1")).job
        client.hincrby("{tal}:owners", "\x01k1\x01", 60_000)
        with pytest.raises(QueueFull):
            queue.submit(request(owner="k1"), owner_video_s=60.0)
        queue.cancel(job.id)
        assert client.exists("{tal}:owners") == 0
        # It took a job, and did not count it out.
        client.hset("{tal}:owners", "\x01k1\x01", 60_000)
        queue.submit(request(owner="k1"), owner_video_s=10.0)
        assert client.hgetall("{tal}:owners") == {"\x01k1\x01": "10000"}


def test_scripts_that_the_server_forgot_are_loaded_again(server: RedisServer, queue: RedisQueue) -> None:
    queue.ping()
    with server.client() as client:
        client.script_flush()
    assert queue.submit(request()).job.state == "queued"


def test_namespaces_do_not_see_each_other(server: RedisServer, queue: RedisQueue) -> None:
    other = RedisQueue(server.url, LONG, namespace="other")
    queue.submit(request())
    assert other.take("w", ["m"], ["normal"]) is None
    assert other.find(JobFilter(), 10) == []
    assert other.stats().queued["normal"] == 0
    other.close()


def test_a_worker_of_another_process_does_the_job(server: RedisServer, queue: RedisQueue) -> None:
    job = queue.submit(request()).job
    worker = multiprocessing.get_context("spawn").Process(
        target=take_in_another_process, args=(("redis", server.url, "tal"),)
    )
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert queue.get(job.id).worker == "elsewhere"


def test_the_oldest_progress_is_forgotten_before_any_state(server: RedisServer) -> None:
    queue = RedisQueue(server.url, QueuePolicy(max_events=5))
    job = queue.submit(request()).job
    claim = take(queue)
    for done in range(10):
        queue.report(claim, Progress("decode", done, 10))
    told = [event.data.get("state", event.data.get("done")) for event in queue.events(job.id)]
    assert told == ["queued", "running", 7, 8, 9]
    queue.close()


def test_messages_and_tags_that_are_no_proper_text_end_a_job_all_the_same(queue: RedisQueue) -> None:
    queue.submit(request(tags=("odd \ud800", "plain")))
    ended = queue.settle(take(queue), Failed(Failure("x", "cannot read odd \udc80.mp4")))
    assert (ended.state, ended.failure) == ("failed", Failure("x", "cannot read odd ?.mp4"))
    assert [job.id for job in queue.find(JobFilter(tag="plain"), 10)] == [ended.id]


@pytest.mark.parametrize("odd", ["", "*", "a:b", "\ud800", "x" * 10_000])
def test_ids_that_are_none_are_not_found(queue: RedisQueue, odd: str) -> None:
    with pytest.raises(JobNotFound):
        queue.get(odd)
    with pytest.raises(JobNotFound):
        queue.cancel(odd)
