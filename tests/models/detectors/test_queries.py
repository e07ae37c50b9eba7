"""What detectors with queries share: spans, overlaps and who answers for what."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models import geometry
from models.detectors.matching import assign
from models.detectors.queries import Mlp, giou, inverse_sigmoid, iou, to_centres, to_ends

eighths = st.integers(-24, 24).map(lambda number: number / 8)
spans_of = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=eighths)


@given(spans_of)
def test_centre_and_width_are_another_way_to_say_start_and_end(spans: np.ndarray) -> None:
    known = torch.from_numpy(spans)
    torch.testing.assert_close(to_ends(to_centres(known)), known)
    torch.testing.assert_close(to_centres(to_ends(known)), known)


@given(spans_of, spans_of)
def test_overlap_is_that_of_the_rest_of_the_project(first: np.ndarray, second: np.ndarray) -> None:
    left, right = np.sort(first, axis=1), np.sort(second, axis=1)
    found = iou(torch.from_numpy(left)[:, None], torch.from_numpy(right))
    np.testing.assert_allclose(found, geometry.tiou(left, right), atol=1e-12)


@given(spans_of, spans_of)
def test_generalised_overlap_takes_off_what_lies_between(first: np.ndarray, second: np.ndarray) -> None:
    left, right = torch.from_numpy(np.sort(first, axis=1))[:, None], torch.from_numpy(np.sort(second, axis=1))
    found, plain = giou(left, right), iou(left, right)
    gap = torch.maximum(left[..., 0], right[..., 0]) - torch.minimum(left[..., 1], right[..., 1])
    whole = torch.maximum(left[..., 1], right[..., 1]) - torch.minimum(left[..., 0], right[..., 0])
    expected = plain - torch.where(whole > 0, gap.clamp(min=0) / whole.clamp(min=1e-300), 0)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_an_epsilon_goes_to_the_union() -> None:
    one = torch.tensor([[0.0, 1.0]])
    assert iou(one, one, eps=0.25).item() == pytest.approx(0.8)


def test_the_inverse_of_sigmoid_is_finite_at_both_ends() -> None:
    values = torch.tensor([-3.0, 0.0, 2.5])
    torch.testing.assert_close(inverse_sigmoid(values.sigmoid()), values)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([-11.513, 11.513]), atol=1e-2, rtol=0)


def test_an_mlp_has_its_nonlinearity_between_layers_only() -> None:
    torch.manual_seed(0)
    made = Mlp(3, 4, 2, layers=3)
    x = torch.randn(5, 3)
    first, second, last = made.layers
    torch.testing.assert_close(made(x), last(torch.relu(second(torch.relu(first(x))))))
    assert [tuple(layer.weight.shape) for layer in made.layers] == [(4, 3), (4, 4), (2, 4)]


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-5, 5)))
def test_no_other_assignment_is_cheaper(cost: np.ndarray) -> None:
    rows, columns = assign(torch.from_numpy(cost))
    count = min(cost.shape)
    assert len(rows) == len(columns) == count
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == count
    wide = cost if cost.shape[0] >= cost.shape[1] else cost.T
    cheapest = min(
        sum(wide[row, column] for column, row in enumerate(chosen))
        for chosen in permutations(range(wide.shape[0]), wide.shape[1])
    )
    assert cost[rows.numpy(), columns.numpy()].sum() == pytest.approx(cheapest)


def test_without_actions_nobody_answers() -> None:
    rows, columns = assign(torch.zeros(4, 0))
    assert rows.shape == columns.shape == (0,)
    assert rows.dtype == columns.dtype == torch.int64
