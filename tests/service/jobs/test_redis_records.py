"""What only records in Redis promise: a server that is full, replies that are lost, and nothing left behind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import QueueUnavailable
from service.jobs.records import Record
from service.jobs.redis_record_shelf import RedisRecords
from tests.service.jobs.redis_server import RedisServer

pytestmark = pytest.mark.needs_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def records(server: RedisServer) -> Iterator[RedisRecords]:
    records = RedisRecords(server.url)
    yield records
    records.close()


class LossyLine:
    """A way to a server on which, when asked to, the next reply is lost together with its connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._entrance = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._entrance.getsockname()[1]}/0"
        self.lose_next = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._entrance.shutdown(socket.SHUT_RDWR)
        self._entrance.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._entrance.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        """One request after the other, each answered by one reply."""
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            while asked := client.recv(1 << 20):
                server.sendall(asked)
                answer = server.recv(1 << 20)
                if self.lose_next.is_set():
                    self.lose_next.clear()
                    return
                client.sendall(answer)


@pytest.fixture
def line(server: RedisServer) -> Iterator[LossyLine]:
    line = LossyLine(server.port)
    yield line
    line.close()


def test_a_step_whose_reply_was_lost_is_done_once_and_known_as_done(line: LossyLine, records: RedisRecords) -> None:
    sender = RedisRecords(line.url)
    assert sender.get("batch", "1") is None
    line.lose_next.set()
    made = sender.create(Record("batch", "1", {"n": 1}))
    assert made == records.get("batch", "1") == Record("batch", "1", {"n": 1}, version=1)
    line.lose_next.set()
    written = sender.replace(replace(made, body={"n": 2}))
    assert not line.lose_next.is_set()
    assert written == records.get("batch", "1") == Record("batch", "1", {"n": 2}, version=2)
    sender.close()


def test_a_full_server_takes_no_new_record_and_lets_known_ones_go_on(
    server: RedisServer, records: RedisRecords
) -> None:
    made = records.create(Record("message", "1", {"n": 1}, due_at_s=1.0))
    records.create(Record("message", "2"))
    assert made is not None
    with server.client() as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable, match="memory"):
        records.create(Record("message", "3"))
    written = records.replace(replace(made, body={"n": 2}, due_at_s=2.0))
    assert records.due("message") == [written]
    records.delete("message", "2")
    assert records.page("message") == [written]
    records.sweep()


def test_no_key_is_left_of_records_that_are_gone(server: RedisServer, records: RedisRecords) -> None:
    for number in range(3):
        made = records.create(Record("upload", str(number), {"n": 1}, due_at_s=1.0, expires_at_s=4e9))
        assert made is not None
        if number:
            records.replace(replace(made, due_at_s=2.0, expires_at_s=3.0))
    records.delete("upload", "0")
    assert records.sweep() == 2
    with server.client() as client:
        assert client.keys() == []


def test_records_outlive_a_server_that_is_killed(server: RedisServer, records: RedisRecords) -> None:
    made = [records.create(Record("batch", str(number), {"n": number})) for number in range(9)]
    server.kill()
    with pytest.raises(QueueUnavailable):
        records.get("batch", "1")
    server.start()
    assert records.page("batch") == made


def test_namespaces_do_not_see_each_other(server: RedisServer, records: RedisRecords) -> None:
    other = RedisRecords(server.url, namespace="other")
    records.create(Record("batch", "1", due_at_s=1.0))
    assert other.get("batch", "1") is None
    assert other.page("batch") == other.due("batch") == []
    assert other.create(Record("batch", "1")) is not None
    other.close()
