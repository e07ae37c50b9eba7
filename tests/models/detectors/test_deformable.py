"""Deformable attention over time, against its definition step by step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.detectors.deformable import DeformableAttention, sample_steps


def sampled(values: list[list[float]], location: float, align_corners: bool) -> list[float]:
    """Of the steps (T, D) of one head."""
    steps = len(values)
    position = location * (steps - 1) if align_corners else location * steps - 0.5
    low = math.floor(position)
    share = position - low
    found = [0.0] * len(values[0])
    for step, weight in ((low, 1 - share), (low + 1, share)):
        if 0 <= step < steps:
            found = [old + weight * new for old, new in zip(found, values[step], strict=True)]
    return found


@given(
    st.integers(1, 9),
    st.lists(st.floats(-0.5, 1.5, width=32) | st.sampled_from([0.0, 0.5, 1.0, -8.0, 1e6]), min_size=1, max_size=6),
    st.booleans(),
)
def test_values_between_steps_are_interpolated(steps: int, locations: list[float], align_corners: bool) -> None:
    torch.manual_seed(steps)
    values = torch.randn(2, 3, steps, 2, dtype=torch.float64)
    where = torch.tensor(locations, dtype=torch.float64).expand(2, 3, 1, -1)
    found = sample_steps(values, where, align_corners)
    assert found.shape == (2, 3, 1, len(locations), 2)
    for batch in range(2):
        for head in range(3):
            expected = [sampled(values[batch, head].tolist(), location, align_corners) for location in locations]
            torch.testing.assert_close(found[batch, head, 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("align_corners", [True, False])
def test_half_a_step_beyond_an_end_half_is_left(align_corners: bool) -> None:
    values = torch.ones(1, 1, 5, 1)
    beyond = torch.tensor([-0.5, 4.5, -1.0, 5.0])
    where = beyond / 4 if align_corners else (beyond + 0.5) / 5
    found = sample_steps(values, where.reshape(1, 1, 1, 4), align_corners).flatten()
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
def test_gradients_reach_values_and_locations(align_corners: bool) -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    where = (1.4 * torch.rand(1, 2, 4, 2, dtype=torch.float64) - 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, p: sample_steps(v, p, align_corners), (values, where))


def scattered_attention(align_corners: bool) -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(6, heads=3, points=2, align_corners=align_corners).double()
    with torch.no_grad():
        for weight in attention.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return attention


def attended(attention: DeformableAttention, query: Tensor, reference: Tensor, memory: Tensor, steps: float) -> Tensor:
    """What one query (C,) finds in a memory (T, C) whose steps all count."""
    width = len(query) // attention.heads
    values = attention.value_proj(memory)
    offsets = attention.sampling_offsets(query).reshape(attention.heads, -1)
    weights = attention.attention_weights(query).reshape(attention.heads, -1).softmax(dim=1)
    found = []
    for head in range(attention.heads):
        mine = values[:, head * width : (head + 1) * width].tolist()
        total = torch.zeros(width, dtype=query.dtype)
        for point in range(attention.points):
            offset = offsets[head, point].item()
            if len(reference) == 1:
                location = reference[0].item() + offset / steps
            else:
                location = reference[0].item() + offset / attention.points * reference[1].item() * 0.5
            total += weights[head, point] * torch.tensor(sampled(mine, location, attention.align_corners))
        found.append(total)
    return attention.output_proj(torch.cat(found))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("known", [1, 2])
def test_each_query_finds_what_the_definition_says(known: int, align_corners: bool) -> None:
    attention = scattered_attention(align_corners)
    query, memory = torch.randn(2, 4, 6).double(), torch.randn(2, 7, 6).double()
    reference = torch.rand(2, 4, known).double()
    steps = torch.tensor([[7.0], [5.0]]).double()
    with torch.inference_mode():
        found = attention(query, reference, memory, torch.ones(2, 7, dtype=torch.bool), steps)
        for batch in range(2):
            for at in range(4):
                expected = attended(
                    attention, query[batch, at], reference[batch, at], memory[batch], steps[batch].item()
                )
                torch.testing.assert_close(found[batch, at], expected, rtol=1e-6, atol=1e-6)


def test_steps_that_are_masked_count_as_nothing() -> None:
    attention = scattered_attention(align_corners=False)
    query, memory = torch.randn(1, 4, 6).double(), torch.randn(1, 7, 6).double()
    mask = torch.arange(7)[None] < 4
    reference, steps = torch.rand(1, 4, 2).double(), torch.tensor(7.0).double()
    other = torch.where(mask[..., None], memory, 1e3)
    with torch.inference_mode():
        found = [attention(query, reference, known, mask, steps) for known in (memory, other)]
        all_seen = attention(query, reference, memory, torch.ones_like(mask), steps)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], all_seen)


def test_heads_begin_by_looking_ahead_here_and_behind() -> None:
    attention = DeformableAttention(16, heads=8, points=3, align_corners=False)
    offsets = attention.sampling_offsets(torch.randn(16)).reshape(8, 3)
    expected = torch.tensor([1.0, 0.0, -1.0, 0.0, 1.0, 0.0, -1.0, 0.0])[:, None] * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(offsets, expected, atol=1e-5, rtol=0)
    weights = attention.attention_weights(torch.randn(16)).reshape(8, 3).softmax(dim=1)
    torch.testing.assert_close(weights, torch.full((8, 3), 1 / 3))


def test_channels_that_heads_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="channels 10 are no multiple of heads 4"):
        DeformableAttention(10, heads=4, points=1, align_corners=True)
