"""The keeper of a worker: what ends is started again, after a pause that grows, and everything ends with the API."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.api.serving import Pauses, WorkerKeeper
from tests.service.api.processes import eventually

SAY = "import time; open({file!r}, 'a').write(f'{{time.monotonic()}} '); time.sleep({life_s})"


@contextmanager
def keeping(file: Path, life_s: float, pauses: Pauses) -> Iterator[None]:
    stop = threading.Event()
    command = [sys.executable, "-S", "-c", SAY.format(file=str(file), life_s=life_s)]
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
    with keeping(tmp_path / "starts", 0.0, Pauses(first_s=0.3, longest_s=9, healthy_s=60)):
        gaps = gaps_of_four(tmp_path / "starts")
    assert gaps[0] >= 0.3
    assert gaps[1] >= 0.6
    assert gaps[2] >= 1.2


def test_a_worker_that_lived_well_is_started_again_soon(tmp_path: Path) -> None:
    with keeping(tmp_path / "starts", 0.3, Pauses(first_s=0.1, longest_s=600, healthy_s=0.2)):
        began_s = time.monotonic()
        gaps_of_four(tmp_path / "starts")
    assert time.monotonic() - began_s < 30
