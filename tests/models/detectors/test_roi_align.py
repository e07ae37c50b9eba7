"""RoI align in one dimension, against its definition sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.detectors.roi_align import roi_align, roi_weights

Span = tuple[float, float]


def pooled(features: Tensor, span: Span, bins: int) -> Tensor:
    """Features (C, T) → (C, bins)."""
    start, end = span
    steps = features.shape[1]
    width = max(end - start, 1.0) / bins
    count = math.ceil(width)
    found = torch.zeros(len(features), bins, dtype=features.dtype)
    for at in range(bins):
        for sample in range(count):
            position = start + at * width + (sample + 0.5) * width / count
            if position < -1 or position > steps:
                continue
            position = max(position, 0.0)
            low = math.floor(position)
            if low >= steps - 1:
                value = features[:, steps - 1]
            else:
                value = features[:, low] * (low + 1 - position) + features[:, low + 1] * (position - low)
            found[:, at] += value / count
    return found


ends = st.floats(-6, 20, width=32)


@given(st.integers(1, 12), st.integers(1, 5), st.lists(st.tuples(ends, ends), min_size=1, max_size=6))
def test_bins_are_means_of_samples_between_steps(steps: int, bins: int, spans: list[Span]) -> None:
    torch.manual_seed(steps)
    features = torch.randn(1, 3, steps, dtype=torch.float64)
    found = roi_align(features, torch.tensor([spans], dtype=torch.float64), bins, longest=26)
    assert found.shape == (1, len(spans), 3, bins)
    for at, span in enumerate(spans):
        torch.testing.assert_close(found[0, at], pooled(features[0], span, bins), rtol=1e-5, atol=1e-5)


def test_windows_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 4, 20)
    spans = torch.tensor([[[0.0, 20.0], [3.2, 9.7]], [[-4.0, 2.0], [18.5, 18.6]], [[5.0, 4.0], [19.0, 30.0]]])
    found = roi_align(features, spans, 4)
    for batch in range(3):
        for at in range(2):
            expected = pooled(features[batch], tuple(spans[batch, at].tolist()), 4)
            torch.testing.assert_close(found[batch, at], expected, rtol=1e-5, atol=1e-5)


def test_every_bin_takes_one_of_what_is_within_reach() -> None:
    """The end itself is inside, and so is one step before the start."""
    spans = torch.tensor([[[2.0, 8.0], [9.0, 11.0], [-2.0, 0.0], [11.0, 14.0]]])
    taken = roi_weights(spans, 2, 10).sum(dim=3)[0]
    torch.testing.assert_close(taken, torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))


def test_a_span_longer_than_the_longest_lacks_samples() -> None:
    spans = torch.tensor([[[0.0, 16.0]]])
    assert roi_weights(spans, 2, 16).sum() == pytest.approx(2.0)
    assert roi_weights(spans, 2, 16, longest=8).sum() == pytest.approx(1.0)


def test_gradients_reach_features_and_never_spans() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 2, 7, dtype=torch.float64, requires_grad=True)
    spans = torch.tensor([[[0.3, 5.9]], [[-2.0, 4.4]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, spans.detach(), 3), (features,))
    roi_align(features, spans, 3).square().sum().backward()
    assert spans.grad is None
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
