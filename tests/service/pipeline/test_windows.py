"""Windows cover every snippet, padding changes nothing, and what windows find returns to the video's grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Resized, Sliding, Whole
from service.errors import InferenceFailed
from service.pipeline import windows
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import CandidateLimits
from service.runtime.feature_ops import HostOps

lengths = st.integers(1, 300)


def rows_of(count: int, channels: int = 2) -> np.ndarray:
    return (np.arange(count)[:, None] + np.arange(channels) * 1000).astype(np.float32)


def snippets_in(layout: windows.WindowPlan) -> np.ndarray:
    return (layout.first_snippet[:, None] + np.arange(layout.mask.shape[1]))[layout.mask]


@given(lengths, st.integers(1, 64), st.data(), st.sampled_from(["shift", "pad"]))
def test_sliding_windows_cover_every_snippet(count: int, length: int, data: st.DataObject, tail: str) -> None:
    hop = data.draw(st.integers(1, length))
    layout = windows.plan(count, Sliding(mode="sliding", length=length, hop=hop, tail=tail))
    assert set(snippets_in(layout)) == set(range(count))
    assert layout.mask.shape[1] == length
    if tail == "shift" and count >= length:
        assert layout.mask.all()


@given(lengths, st.integers(1, 16), st.integers(1, 8), st.floats(0, 0.9))
def test_whole_windows_cover_every_snippet_and_keep_their_bounds(
    count: int, multiple: int, factor: int, overlap: float
) -> None:
    rule = Whole(mode="whole", multiple_of=multiple, max_length=multiple * factor, overlap=overlap)
    layout = windows.plan(count, rule)
    assert set(snippets_in(layout)) == set(range(count))
    assert layout.mask.shape[1] % multiple == 0
    assert layout.mask.shape[1] <= multiple * factor


def test_dropping_the_tail_leaves_it_out() -> None:
    layout = windows.plan(10, Sliding(mode="sliding", length=4, hop=4, tail="drop"))
    assert set(snippets_in(layout)) == set(range(8))


def test_a_short_video_is_padded_with_zeros_and_masked() -> None:
    layout = windows.plan(3, Sliding(mode="sliding", length=5, hop=5))
    batch = next(windows.batches(rows_of(3), layout, HostOps(), 8))
    assert batch.mask.tolist() == [[True, True, True, False, False]]
    assert batch.features[0, 0].tolist() == [0, 1, 2, 0, 0]


def test_windows_hold_the_rows_that_they_stand_for() -> None:
    layout = windows.plan(7, Sliding(mode="sliding", length=4, hop=3, tail="shift"))
    found = [batch.features[:, 0].tolist() for batch in windows.batches(rows_of(7), layout, HostOps(), 1)]
    assert found == [[[0, 1, 2, 3]], [[3, 4, 5, 6]]]


def reference_resize(rows: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation whose samples are the centres of `length` equal parts, ends held (align_corners False)."""
    centres = (np.arange(length) + 0.5) * len(rows) / length - 0.5
    return np.stack([np.interp(centres, np.arange(len(rows)), column) for column in rows.T])


@given(lengths, st.integers(1, 200))
def test_resizing_interpolates_between_snippet_centres(count: int, length: int) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    layout = windows.plan(count, Resized(mode="resize", length=length))
    found = next(windows.batches(rows, layout, HostOps(), 1)).features[0]
    assert found == pytest.approx(reference_resize(rows, length), abs=1e-4)


def grid_of(num_frames: int, stride: float, offset: float) -> SnippetGrid:
    return SnippetGrid(np.arange(num_frames) / 25.0, num_frames / 25.0, stride, offset)


def test_a_resized_grid_follows_the_actionformer_convention() -> None:
    count, stride, clip, length = 61, 16, 16, 192
    grid = windows.window_grid(grid_of(1000, stride, 8), count, clip, Resized(mode="resize", length=length))
    new_stride = ((count - 1) * stride + clip) / length
    assert grid.to_seconds([0, 191]) == pytest.approx(np.array([0.5 * new_stride, 191.5 * new_stride]) / 25)


def test_a_resized_grid_can_share_out_the_whole_duration() -> None:
    rule = Resized(mode="resize", length=100, span="video", offset_steps=0.0)
    grid = windows.window_grid(grid_of(1000, 16, 8), 61, 16, rule)
    assert grid.to_seconds([0, 50, 100]) == pytest.approx([0, 20, 40])


def test_a_resized_grid_can_end_with_the_last_whole_stride() -> None:
    rule = Resized(mode="resize", length=100, span="strides", offset_steps=0.0)
    grid = windows.window_grid(grid_of(1000, 16, 0), 62, 16, rule)
    assert grid.to_seconds(100) == pytest.approx(62 * 16 / 25)


def batch_of(count: int, length: int, hop: int) -> windows.WindowBatch:
    layout = windows.plan(count, Sliding(mode="sliding", length=length, hop=hop))
    return next(windows.batches(rows_of(count), layout, HostOps(), 99))


def test_candidates_of_windows_land_on_the_grid_of_the_video() -> None:
    batch = batch_of(6, 4, 2)
    spans = np.array([[[0.0, 2.0]], [[1.0, 3.0]]])
    scores = np.array([[[0.0, 0.9]], [[0.4, 0.0]]])
    found = windows.place_on_grid((spans, scores, None), batch, CandidateLimits(), first_window=5)
    assert found.spans.tolist() == [[0, 2], [3, 5]]
    assert found.labels.tolist() == [1, 0]
    assert found.windows.tolist() == [5, 6]


def one_window(scores: np.ndarray, groups: np.ndarray | None, limits: CandidateLimits) -> list[tuple[int, float]]:
    batch = batch_of(4, 4, 4)
    spans = np.tile([0.0, 1.0], (1, scores.shape[0], 1))
    found = windows.place_on_grid((spans, scores[None], groups), batch, limits, 0)
    return list(zip(found.labels.tolist(), found.scores.tolist(), strict=True))


def test_a_score_of_zero_is_no_candidate() -> None:
    assert one_window(np.array([[0.0, 0.5]]), None, CandidateLimits()) == [(1, 0.5)]


def test_limits_keep_the_best_of_each_group_window_and_candidate() -> None:
    scores = np.array([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4]])
    groups = np.array([0, 0, 1])
    assert one_window(scores, groups, CandidateLimits(top_k_per_group=1)) == [(0, 0.9), (0, 0.5)]
    assert one_window(scores, groups, CandidateLimits(top_k_per_window=3)) == [(0, 0.9), (1, 0.8), (0, 0.7)]
    assert one_window(scores, groups, CandidateLimits(max_classes=1)) == [(0, 0.9), (0, 0.7), (0, 0.5)]
    assert one_window(scores, groups, CandidateLimits(min_score=0.7)) == [(0, 0.9), (1, 0.8)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_candidates_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(InferenceFailed, match="not finite"):
        one_window(np.array([[bad]]), None, CandidateLimits())


def test_candidates_of_the_wrong_shape_are_an_error() -> None:
    with pytest.raises(InferenceFailed, match=r"spans \(1, 2\)"):
        windows.place_on_grid((np.zeros((1, 2)), np.zeros((1, 1, 1)), None), batch_of(4, 4, 4), CandidateLimits(), 0)


def test_empty_windows_that_fill_a_fixed_batch_find_nothing() -> None:
    layout = windows.pad_plan(windows.plan(4, Sliding(mode="sliding", length=4, hop=4)), 3)
    batch = next(windows.batches(rows_of(4), layout, HostOps(), 3))
    assert batch.features.shape[0] == 3
    raw = (np.tile([0.0, 1.0], (3, 1, 1)), np.ones((3, 1, 1)), None)
    assert len(windows.place_on_grid(raw, batch, CandidateLimits(), 0).scores) == 1


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_activations_of_overlapping_windows_merge_to_the_curve_they_came_from(
    count: int, length: int, data: st.DataObject
) -> None:
    hop = data.draw(st.integers(1, length))
    layout = windows.plan(count, Sliding(mode="sliding", length=length, hop=hop))
    curve = rows_of(count)
    parts = [batch.features.transpose(0, 2, 1) for batch in windows.batches(curve, layout, HostOps(), 2)]
    assert windows.merge_activations(parts, layout, count) == pytest.approx(curve)
