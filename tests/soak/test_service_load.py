"""The load of `make soak` at a tenth: refusals in order, no accepted job lost, memory that stays."""

from collections import Counter
from pathlib import Path

import pytest

from service.settings import MIB
from tests.soak import service_load
from tests.soak.rising_load import Step
from tests.soak.steady_load import Memory


@pytest.mark.slow
def test_a_service_under_too_much_load_refuses_in_order_and_stays_small(tmp_path: Path) -> None:
    load = service_load.measure(tmp_path, redis=False, step_s=1.0, requests=1000, rates_per_s=(2, 32))
    assert not load.violations, load.text()
    assert load.steps[0].jobs
    assert load.steps[-1].jobs  # as many as there is room for are still taken
    assert load.memory.answers[200]
    assert load.memory.answers[304]


@pytest.mark.parametrize(
    "step",
    [
        Step(1.0, Counter({200: 5, 500: 1})),
        Step(1.0, Counter({200: 5, "no answer: ReadTimeout": 1})),
        Step(1.0, Counter({429: 5}), unadvised=1),
        Step(1.0, Counter({202: 5}), lost=1),
    ],
)
def test_a_failure_a_broken_connection_a_refusal_without_a_pause_and_a_lost_job_are_told(step: Step) -> None:
    assert len(step.violations) == 1
    assert not Step(1.0, Counter({200: 5, 202: 3, 429: 2, 503: 1})).violations


def test_memory_that_grows_after_its_warm_up_is_told() -> None:
    warm, grown = [50 * MIB] * 10 + [100 * MIB] * 30, [100 * MIB] * 30 + [120 * MIB] * 10
    assert not Memory({"api": warm}).violations
    assert Memory({"api": grown}).violations
    assert Memory({"api": warm}, Counter({500: 1})).violations
    assert Memory({"api": warm}, lost=1).violations
