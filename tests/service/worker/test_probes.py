"""Probes over HTTP: on every address of the machine, and whatever their answers do."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from service.errors import InvalidOptions
from service.worker import presence as presence_module
from service.worker import probes
from service.worker.guarded_queue import GuardedQueue
from service.worker.presence import Presence
from tests.service.worker.test_parts_of_a_worker import Queue


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return socket.has_dualstack_ipv6()
    except OSError:
        return False


def test_a_probe_that_fails_is_answered_with_500_and_the_others_go_on():
    def fail():
        raise LookupError("a defect")

    with probes.serving(0, {"/bad": fail, "/good": lambda: (200, b"ok")}) as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            urllib.request.urlopen(f"{url}/bad")
        caught.value.close()
        with urllib.request.urlopen(f"{url}/good?x=1") as answer:
            assert answer.read() == b"ok"
        with pytest.raises(InvalidOptions, match=str(port)), probes.serving(port, {}):
            pass


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("[::1]", marks=pytest.mark.skipif(not has_ipv6(), reason="needs IPv6"))]
)
def test_probes_are_answered_on_addresses_of_both_families(host):
    with (
        probes.serving(0, {"/good": lambda: (200, b"ok")}) as port,
        urllib.request.urlopen(f"http://{host}:{port}/good", timeout=10) as answer,
    ):
        assert answer.status == 200


def test_probes_are_answered_where_there_is_no_ipv6(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    test_probes_are_answered_on_addresses_of_both_families("127.0.0.1")


def test_a_worker_whose_turn_does_not_end_is_no_longer_alive(monkeypatch):
    monkeypatch.setattr(presence_module, "LONGEST_TURN_S", 0.0)
    presence = Presence(GuardedQueue(Queue()), "one", ("high",))
    assert "no turn" in presence.stuck()
    monkeypatch.setattr(presence_module, "LONGEST_TURN_S", 60.0)
    presence.turned()
    assert presence.stuck() is None
