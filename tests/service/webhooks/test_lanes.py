"""How many requests a host may have under way."""

from __future__ import annotations

from service.webhooks.lanes import STUCK_S, Lanes
from tests.service.jobs.harness import MovableClock


def test_a_host_has_so_many_at_once_and_others_have_theirs() -> None:
    lanes = Lanes(2)
    assert [lanes.enter("a") for _ in range(3)] == [True, True, False]
    assert lanes.enter("b")
    assert lanes.taken == 3
    lanes.leave("a", failed=False)
    assert lanes.enter("a")


def test_a_host_that_failed_last_has_one_until_it_answers() -> None:
    lanes = Lanes(2)
    lanes.enter("a")
    lanes.leave("a", failed=True)
    assert [lanes.enter("a") for _ in range(2)] == [True, False]
    lanes.leave("a")
    assert [lanes.enter("a") for _ in range(2)] == [True, False]
    lanes.leave("a", failed=False)
    assert [lanes.enter("a") for _ in range(2)] == [True, True]


def test_a_host_is_stuck_once_somebody_has_waited_for_long() -> None:
    clock = MovableClock()
    lanes = Lanes(2, clock.steady_s)
    lanes.enter("a")
    assert not lanes.stuck("a")
    clock.move(STUCK_S)
    assert lanes.stuck("a")
    assert not lanes.stuck("b")
    lanes.leave("a")
    assert not lanes.stuck("a")
