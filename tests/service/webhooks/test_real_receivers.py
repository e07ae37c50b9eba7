"""Receivers that really listen, asked through the guard as the service asks them."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from service.egress import requests
from service.egress.requests import Answer, Guard
from service.jobs.sqlite_records import SqliteRecords
from service.webhooks.courier import Courier
from service.webhooks.deliverer import Deliverer
from service.webhooks.message import Message, message_of
from service.webhooks.outbox import Outbox
from service.webhooks.schedule import Schedule, Sent
from service.webhooks.signing import Signer
from tests.service.jobs.harness import wait_until
from tests.service.webhooks.desk import SECRET, FinishedJobs
from tests.support.fake_service import Asked, serving

OWN = Guard(hosts=("127.0.0.1:*",), schemes=("http",), private=True)
OWN_OR_MACHINES = Guard(hosts=("127.0.0.1:*", "169.254.169.254"), schemes=("http",), private=True)
NOW_S = 1_800_000_000.0


def message(url: str) -> Message:
    return message_of(FinishedJobs().finish(), url, {"label": "Straße"}, NOW_S)


def courier(guard: Guard, timeout_s: float) -> Courier:
    def send(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        return requests.post(url, guard, headers, body, timeout_s)

    return Courier(Signer([SECRET]), send, timeout_s)


def sent(to: Message, guard: Guard = OWN, timeout_s: float = 15.0) -> Sent:
    return courier(guard, timeout_s).post(to, NOW_S)


def test_what_arrives_is_what_was_signed() -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(202, {})

    with serving(script) as receiver:
        told = message(f"{receiver.url}/hook?token=1")
        assert sent(told).succeeded
    (asked,) = receiver.asked
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/hook?token=1", "application/json")
    signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert asked.headers["webhook-signature"] == f"v1,{expected}"
    assert json.loads(asked.body) == told.event


def test_a_redirect_is_not_followed_anywhere() -> None:
    with serving(lambda asked: asked.answer(307, {}, Location=other.url)) as receiver, serving(ok) as other:
        assert sent(message(receiver.url)).attempt.status == 307
    with serving(lambda asked: asked.answer(302, {}, Location="http://169.254.169.254/latest")) as receiver:
        answered = sent(message(receiver.url))
    assert (answered.attempt.status, answered.succeeded, answered.final) == (302, False, False)
    assert (len(receiver.asked), other.asked) == (1, [])


def ok(asked: Asked) -> None:
    asked.read()
    asked.answer(200, {})


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://0.0.0.0/", "ftp://a.example/"]
)
def test_addresses_of_machines_alone_are_denied_whatever_is_allowed(url: str) -> None:
    answered = sent(message(url), Guard(hosts=("*",), schemes=("http", "https"), private=True))
    assert answered.denied
    assert answered.attempt.error


def test_a_name_that_leads_into_the_network_is_denied_when_it_is_asked() -> None:
    guard = Guard(hosts=("*",), lookup=lambda host, port: ["8.8.8.8", "10.0.0.7"])
    guard.check("https://harmless.example/")
    assert sent(message("https://harmless.example/"), guard).denied


def test_a_receiver_that_hangs_is_left_in_time() -> None:
    released = threading.Event()

    def script(asked: Asked) -> None:
        asked.read()
        released.wait(20)
        asked.cut()

    with serving(script) as receiver:
        answered = sent(message(receiver.url), timeout_s=0.3)
        released.set()
    assert (answered.attempt.status, answered.final) == (None, False)
    assert answered.attempt.error


def test_a_port_where_nobody_listens_is_a_failed_attempt() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        answered = sent(message(f"http://127.0.0.1:{bound.getsockname()[1]}/"))
    assert (answered.attempt.status, answered.final) == (None, False)


def test_the_time_that_a_receiver_asks_for_comes_through() -> None:
    with serving(lambda asked: asked.answer(503, {}, Retry_After="77")) as receiver:
        assert sent(message(receiver.url)).retry_after == "77"


def test_receivers_of_every_kind_at_once_end_as_is_documented(tmp_path: Path) -> None:
    """A schedule of days in a moment."""
    released, closed = threading.Event(), socket.create_server(("127.0.0.1", 0))
    down = f"http://127.0.0.1:{closed.getsockname()[1]}"
    closed.close()

    def hang(asked: Asked) -> None:
        asked.read()
        released.wait(20)
        asked.cut()

    def fail_once(asked: Asked) -> None:
        asked.read()
        asked.answer(500 if len(fails_once.asked) == 1 else 200, {})

    with (
        serving(hang) as hangs,
        serving(fail_once) as fails_once,
        serving(lambda asked: asked.answer(302, {}, Location="http://169.254.169.254/")) as redirects,
        serving(lambda asked: asked.answer(410, {})) as gone,
        serving(ok) as well,
    ):
        jobs, records = FinishedJobs(), SqliteRecords(tmp_path / "q")
        urls = (hangs.url, fails_once.url, redirects.url, gone.url, well.url, down, "http://169.254.169.254/")
        ids = [jobs.finish(url).id for url in urls]
        queue: Any = jobs
        schedule = Schedule(chance=lambda: 1.0, pauses_s=(0.01, 0.05, 0.1))
        outbox, outcomes = Outbox(queue, records, lambda job: {"id": job.id}), []
        deliverer = Deliverer(outbox, records, courier(OWN_OR_MACHINES, 0.5), count=outcomes.append, schedule=schedule)
        stop = threading.Event()
        thread = threading.Thread(target=deliverer.run_forever, args=(stop, 0.01))
        thread.start()

        def states() -> list[str]:
            found = (records.get("message", f"-/msg_{job_id}") for job_id in ids)
            return [record.body["state"] if record else "none" for record in found]

        ended = ["given_up", "delivered", "given_up", "given_up", "delivered", "given_up", "given_up"]
        wait_until(lambda: states() == ended)
        stop.set()
        released.set()
        thread.join(20)
    tries = len(schedule.pauses_s) + 1
    assert [len(one.asked) for one in (hangs, fails_once, redirects, gone, well)] == [tries, 2, tries, 1, 1]
    assert outcomes.count("delivered") == 2
    assert outcomes.count("given_up") == 5
    records.close()
