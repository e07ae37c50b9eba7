"""What signals ask of a worker: to end, at once when they are repeated, and never so by its parent's order."""

from __future__ import annotations

import select
import signal
from itertools import permutations

import pytest

from service.worker.signals import Signals


def heard(*numbers: int) -> Signals:
    with Signals() as signals:
        for number in numbers:
            signal.raise_signal(number)
        assert select.select([signals], [], [], 10)[0] == [signals]
    return signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_each_asks_to_end_but_not_at_once(number: int) -> None:
    signals = heard(number)
    assert signals.ending
    assert not signals.at_once
    assert not signals.reload


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_one_asks_to_end_at_once(numbers: tuple[int, ...]) -> None:
    assert heard(*numbers).at_once


@pytest.mark.parametrize("numbers", list(permutations([signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1])))
def test_the_order_of_a_parent_repeats_nothing(numbers: tuple[int, ...]) -> None:
    signals = heard(*numbers)
    assert signals.ending
    assert not signals.at_once


def test_a_hangup_asks_for_a_reload_alone() -> None:
    signals = heard(signal.SIGHUP)
    assert signals.reload
    assert not signals.ending
