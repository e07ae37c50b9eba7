"""Multiply-adds of detectors, where they can be told by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.multiply_adds import made, multiply_adds
from tests.support import networks


def counted(**options: Any) -> int:
    return multiply_adds(made("rcl", "activitynet", options))


def test_a_step_of_refinement_costs_its_convolutions() -> None:
    memory, context, answers, cells = 64, 32, 2, 100 * 100
    step = 3 * 9 * memory * (memory + context + answers) + 9 * memory * answers
    one, five = counted(inference_iterations=1), counted(inference_iterations=5)
    assert five - one == 4 * step * cells
    begin = 128 * (memory + context)
    assert one - counted(iterations=0) == (step + begin) * cells


def test_other_networks_are_counted_too() -> None:
    assert multiply_adds(networks.detector("bmn", "windows")) > 0
    network = networks.detector("actionformer", "local")
    short, long = multiply_adds(network, 32), multiply_adds(network, 64)
    assert long == pytest.approx(2 * short, rel=0.2)
    with pytest.raises(ValueError, match="say how many steps"):
        multiply_adds(network)
