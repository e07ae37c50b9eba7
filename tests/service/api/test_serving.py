"""The keeper of a worker: what ends is started again, after a pause that grows, and everything ends with the API."""

from __future__ import annotations

import errno
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.api import serving
from service.api.serving import WORKER, Pauses, WorkerKeeper
from tests.service.api.processes import eventually

BRIEF = Pauses(first_s=0.1, longest_s=600, healthy_s=0.2)
SAY = "import time; open({file!r}, 'a').write(f'{{time.monotonic()}} '); time.sleep({life_s})"
TELL_THE_END = """
import pathlib, signal, sys, time
told = pathlib.Path({file!r})
signal.signal(signal.SIGTERM, lambda *_: told.write_text("a signal"))
told.write_text("there")
sys.stdin.read()
time.sleep(0.3)
told.write_text(told.read_text() + ", then the end of its input")
"""
# Stands for the command: it says what it hears, until it has heard enough.
FAKE_CLI = """
import signal, time
heard = []
def main():
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: heard.append(signal.Signals(number).name))
    print("there", flush=True)
    while not heard:
        time.sleep(0.01)
    print(*heard, flush=True)
"""


@contextmanager
def keeping(code: str, pauses: Pauses = BRIEF) -> Iterator[None]:
    stop = threading.Event()
    command = [sys.executable, "-S", "-c", code]
    keeper = threading.Thread(target=WorkerKeeper(command, stop, 1.0, pauses).run)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join(10)
        assert not keeper.is_alive()


def starts(file: Path) -> list[float]:
    return [float(moment) for moment in file.read_text().split()] if file.exists() else []


def gaps_of_four(file: Path) -> list[float]:
    eventually(lambda: len(starts(file)) >= 4)
    return [later - earlier for earlier, later in itertools.pairwise(starts(file))]


def test_a_worker_that_keeps_ending_is_started_less_and_less_often(tmp_path: Path) -> None:
    code = SAY.format(file=str(tmp_path / "starts"), life_s=0.0)
    with keeping(code, Pauses(first_s=0.3, longest_s=9, healthy_s=60)):
        gaps = gaps_of_four(tmp_path / "starts")
    assert gaps[0] >= 0.3
    assert gaps[1] >= 0.6
    assert gaps[2] >= 1.2


def test_a_worker_that_lived_well_is_started_again_soon(tmp_path: Path) -> None:
    with keeping(SAY.format(file=str(tmp_path / "starts"), life_s=0.3)):
        began_s = time.monotonic()
        gaps_of_four(tmp_path / "starts")
    assert time.monotonic() - began_s < 30


def test_a_worker_that_cannot_be_started_now_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [OSError(errno.EAGAIN, "no process is left"), OSError(errno.ENOMEM, "no memory is left")]
    start = subprocess.Popen

    def refuse_twice(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if refusals:
            raise refusals.pop(0)
        return start(*arguments, **options)

    monkeypatch.setattr(serving.subprocess, "Popen", refuse_twice)
    with keeping(SAY.format(file=str(tmp_path / "starts"), life_s=0.0)):
        eventually(lambda: starts(tmp_path / "starts"))
    assert "cannot be started" in caplog.text
    assert "no memory is left" in caplog.text


def test_a_worker_is_told_to_end_by_its_input_alone_and_may_take_its_time(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with keeping(TELL_THE_END.format(file=str(told))):
        eventually(lambda: told.exists() and told.read_text() == "there")
    assert told.read_text() == "there, then the end of its input"


def test_a_worker_whose_parent_is_gone_hears_an_order_that_is_no_repeated_signal(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "cli.py").write_text(FAKE_CLI)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", WORKER], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"there\n"
        worker.stdin.close()
        assert worker.stdout.read() == b"SIGUSR1\n"
