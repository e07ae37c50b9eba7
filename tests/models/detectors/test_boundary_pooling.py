"""Boundary pooling against the published operation's numbers, and against its definition, place by place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.detectors.boundary_pooling import boundary_pool
from tests.support import golden


def pooled_place(row: list[float], low: float, high: float, real: int) -> tuple[float, int]:
    """The maximum of one channel's region, and the first place that holds it, by the published rules."""
    last = max(real - 1, 0)
    first, final = (min(max(int(end), 0), last) for end in (low, high))
    places = range(first, max(first, final) + 1)
    best = max(row[place] for place in places)
    return best, next(place for place in places if row[place] == best)


def by_definition(features: Tensor, regions: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima, and the gradient of their sum."""
    batch, channels, _ = features.shape
    found, gradient = torch.empty(batch, channels, regions.shape[1]), torch.zeros_like(features)
    for b in range(batch):
        for c in range(channels):
            side = 0 if c < channels // 2 else 2
            for n, region in enumerate(regions[b].tolist()):
                value, place = pooled_place(features[b, c].tolist(), region[side], region[side + 1], int(counts[b]))
                found[b, c, n] = value
                gradient[b, c, place] += 1
    return found, gradient


def test_pooling_equals_the_published_operation() -> None:
    known = golden.read("afsd_heads")
    features = torch.from_numpy(known.inputs["bmp/input"]).requires_grad_()
    regions = torch.from_numpy(known.inputs["bmp/segments"])
    found = boundary_pool(features, regions, torch.full((2,), features.shape[2]))
    np.testing.assert_array_equal(found.detach(), known.outputs["bmp/output"])
    found.sum().backward()
    np.testing.assert_array_equal(features.grad, known.outputs["bmp/grad_of_sum"])


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 40), real=st.integers(0, 40), seed=st.integers(0, 10_000))
def test_pooling_equals_its_definition_with_ties_and_regions_beyond(steps: int, real: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randint(0, 4, (2, 4, steps), generator=draw).float().requires_grad_()
    regions = (torch.rand(2, 3, 4, generator=draw) * 2 - 0.5) * steps
    counts = torch.tensor([steps, min(real, steps)])
    found = boundary_pool(features, regions, counts)
    expected, gradient = by_definition(features.detach(), regions, counts)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert torch.equal(features.grad, gradient)


def along_line(row: list[float], low: float, high: float) -> float:
    """The maximum of the straight lines between values, looked for at a thousand places and at every step."""
    places = np.concatenate([np.linspace(low, high, 1001), np.arange(math.ceil(low), math.floor(high) + 1)])
    return float(np.interp(places, np.arange(len(row)), row).max())


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 20), seed=st.integers(0, 10_000))
def test_continuous_pooling_is_the_maximum_of_the_line_through_the_values(steps: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 2, steps, generator=draw)
    regions = (torch.rand(1, 5, 4, generator=draw) * 2 - 0.5) * steps
    found = boundary_pool(features, regions, torch.tensor([steps]), continuous=True)
    ends = regions[0].clamp(0, steps - 1).tolist()
    for n, region in enumerate(ends):
        for side in range(2):
            low, high = region[2 * side], max(region[2 * side], region[2 * side + 1])
            assert found[0, side, n].item() == pytest.approx(
                along_line(features[0, side].tolist(), low, high), abs=1e-4
            )


def test_continuous_pooling_changes_little_where_rounded_pooling_jumps() -> None:
    features = torch.tensor([[[0.0, 0.0, 9.0, 0.0]] * 2])
    just_before, at = (torch.tensor([[[0.0, end, 0.0, end]]]) for end in (1.999, 2.0))
    count = torch.tensor([4])
    assert (boundary_pool(features, at, count) - boundary_pool(features, just_before, count)).abs().max() == 9
    moved = boundary_pool(features, at, count, continuous=True) - boundary_pool(
        features, just_before, count, continuous=True
    )
    assert 0 < moved.abs().max() < 0.01


def test_padded_steps_are_never_read() -> None:
    features = torch.tensor([[[1.0, 2.0, 99.0, 99.0]] * 2])
    everywhere = torch.tensor([[[0.0, 3.0, 3.0, 9.0]]])
    found = boundary_pool(features, everywhere, torch.tensor([2]))
    assert found.flatten().tolist() == [2.0, 2.0]
