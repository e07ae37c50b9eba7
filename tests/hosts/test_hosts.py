"""Machines on a switch, and what is said where there may be none; `make hosts` puts the service on them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.deployment import wait_until
from tests.hosts import namespaces, run
from tests.hosts.namespaces import Network, RefusedError
from tests.hosts.site import listens
from tests.hosts.trials import Row

PORT = 8000


def test_a_machine_is_reached_unless_its_cable_is_pulled_and_nothing_is_left_of_it() -> None:
    try:
        with Network("a", "b") as network:
            _cut_and_mend(network)
    except RefusedError as refused:
        pytest.skip(str(refused))
    assert network.left() == []


def _cut_and_mend(network: Network) -> None:
    machine = network.machines["a"]
    serve = machine.command(sys.executable, "-m", "http.server", str(PORT), "--bind", machine.address)
    with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: listens((machine.address, PORT)))
            assert network.processes() == [server.pid]
            assert not listens((network.machines["b"].address, PORT))
            network.cut("a")
            assert not listens((machine.address, PORT))
            network.mend("a")
            wait_until(lambda: listens((machine.address, PORT)))
        finally:
            server.kill()


def test_where_there_may_be_no_namespaces_that_is_said_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["run"])
    assert run.main() == 0
    assert capsys.readouterr().out.startswith("skipped: ")


def test_a_promise_that_broke_is_told_in_the_table() -> None:
    row = Row("a cable", "redis", jobs=2, seconds=3.2, seen=["one thing"], broken=["a job is lost"])
    assert run.table([row]).splitlines()[-1] == "| a cable | 2 | – | 3 | one thing | BROKEN: a job is lost |"
