"""Positions become seconds by presentation times only, and clips are cut where the grid says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.snippets import ClipRule, SnippetBatch, SnippetCutter, SnippetGrid


def steady(num_frames: int, fps: float, *, stride: float = 1, offset: float = 0, start_s: float = 0) -> SnippetGrid:
    return SnippetGrid(start_s + np.arange(num_frames) / fps, start_s + num_frames / fps, stride, offset)


def test_at_a_steady_rate_a_position_is_frame_over_rate() -> None:
    grid = steady(1000, 30.0, stride=4, offset=8)
    assert grid.to_seconds([0, 10, 240]) == pytest.approx([8 / 30, 48 / 30, 968 / 30])


def test_the_actionformer_convention_is_stride_and_half_a_clip() -> None:
    fps, stride, clip = 29.97, 4, 16
    grid = steady(5000, fps, stride=stride, offset=clip / 2)
    positions = np.array([0.0, 3.25, 700.5])
    assert grid.to_seconds(positions) == pytest.approx((positions * stride + 0.5 * clip) / fps)


def test_a_variable_rate_follows_presentation_times_not_index_over_rate() -> None:
    times_s = np.array([0.0, 0.1, 0.2, 1.2, 2.2])
    grid = SnippetGrid(times_s, 3.2, 1, 0)
    assert grid.to_seconds([3, 3.5, 5]) == pytest.approx([1.2, 1.7, 3.2])


def test_sampled_frames_keep_their_interval_to_the_end() -> None:
    grid = SnippetGrid(np.arange(4.0), 3.05, 1, 0, sampling_s=1.0)
    assert grid.to_seconds([3, 3.5, 4, 5]) == pytest.approx([3, 3.5, 4, 5])


def test_a_late_start_is_kept() -> None:
    assert steady(24, 25.0, start_s=1.075).to_seconds(0) == pytest.approx(1.075)


def test_positions_outside_the_video_continue_at_its_mean_rate() -> None:
    grid = steady(100, 10.0)
    assert grid.to_seconds([-10, 110]) == pytest.approx([-1.0, 11.0])


times = st.lists(st.floats(0.001, 2), min_size=1, max_size=60).map(np.cumsum)


@given(times, st.floats(0.5, 16), st.floats(-8, 8), st.floats(-5, 100), st.floats(-3, 1000))
def test_grids_round_trip(
    frame_times_s: np.ndarray, stride: float, offset: float, position: float, start_s: float
) -> None:
    edges = frame_times_s + start_s
    grid = SnippetGrid(edges, float(edges[-1]) + 0.04, stride, offset)
    assert grid.to_positions(grid.to_seconds(position)) == pytest.approx(position, abs=1e-5)


@given(times, st.floats(0.5, 16), st.floats(-8, 8))
def test_later_positions_are_never_earlier_in_time(frame_times_s: np.ndarray, stride: float, offset: float) -> None:
    grid = SnippetGrid(frame_times_s, float(frame_times_s[-1]) + 0.04, stride, offset)
    assert (np.diff(grid.to_seconds(np.linspace(-5, 70, 200))) >= 0).all()


def test_times_that_fall_back_do_not_turn_the_timeline_around() -> None:
    grid = SnippetGrid(np.array([0.0, 0.2, 0.1, 0.3]), 0.4, 1, 0)
    assert (np.diff(grid.to_seconds([0, 1, 2, 3, 4])) >= 0).all()


def test_a_grid_needs_a_frame_and_a_stride() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        SnippetGrid(np.empty(0), 0, 1, 0)
    with pytest.raises(ValueError, match="stride_frames is 0"):
        SnippetGrid(np.zeros(1), 1, 0, 0)


def frames(count: int) -> np.ndarray:
    """Frame i is filled with i."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3)).copy()


def cut_all(rule: ClipRule, num_frames: int, chunk: int, batch: int) -> list[list[int]]:
    """Frame numbers of every clip, whatever the batches that frames came in."""
    cutter = SnippetCutter(rule, fixed_snippets=batch)
    video = frames(num_frames)
    batches = [b for at in range(0, num_frames, chunk) for b in cutter.push(video[at : at + chunk])]
    batches += cutter.finish()
    clips = [clip for b in batches for clip in b.clips]
    firsts = [b.first_index + i for b in batches for i in range(len(b.clips))]
    assert firsts == list(range(len(clips)))
    return [clip[:, 0, 0, 0].tolist() for clip in clips]


def test_clips_are_the_frames_that_the_grid_names() -> None:
    assert cut_all(ClipRule(4, 1, 2, 4), 9, 4, 2) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


def test_frame_step_spaces_the_frames_of_a_clip() -> None:
    assert cut_all(ClipRule(3, 2, 4, 5), 9, 9, 8) == [[0, 2, 4], [4, 6, 8]]


def test_a_short_video_is_padded_with_its_last_frame() -> None:
    assert cut_all(ClipRule(4, 1, 2, 4), 2, 1, 8) == [[0, 1, 1, 1]]


def test_a_padded_tail_covers_the_last_frame() -> None:
    assert cut_all(ClipRule(4, 1, 4, 4, pad_tail=True), 9, 3, 8) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]
    assert cut_all(ClipRule(4, 1, 4, 4), 9, 3, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_streams_of_different_clip_lengths_give_the_same_number_of_snippets() -> None:
    assert len(cut_all(ClipRule(1, 1, 4, 16), 100, 7, 3)) == len(cut_all(ClipRule(16, 1, 4, 16), 100, 7, 3))


@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(1, 7),
    st.booleans(),
)
def test_cutting_does_not_depend_on_how_frames_arrive(
    clip: int, step: int, stride: int, num_frames: int, chunk: int, batch: int, pad: bool
) -> None:
    rule = ClipRule(clip, step, stride, (clip - 1) * step + 1, pad_tail=pad)
    found = cut_all(rule, num_frames, chunk, batch)
    wanted = [[min(g * stride + i * step, num_frames - 1) for i in range(clip)] for g in range(rule.count(num_frames))]
    assert found == wanted
    if pad and stride <= rule.span_frames:
        assert set(range(0, num_frames, step)) <= {frame for one in found for frame in range(one[0], one[-1] + 1)}


@pytest.mark.parametrize(
    ("rule", "most"),
    [(ClipRule(4, 1, 2, 4), 8), (ClipRule(1, 1, 64, 1), 3), (ClipRule(4, 8, 32, 25), 16), (ClipRule(2, 1, 4, 16), 16)],
)
def test_a_cutter_holds_only_frames_that_a_coming_clip_needs(rule: ClipRule, most: int) -> None:
    cutter = SnippetCutter(rule, fixed_snippets=3)
    held = []
    for _ in range(100):
        cutter.push(frames(8))
        held.append(cutter.num_held)
    assert max(held) <= most


def test_a_batch_stays_within_its_bytes() -> None:
    frame_bytes = 2 * 2 * 3
    cutter = SnippetCutter(ClipRule(4, 1, 4, 4), batch_frames=32, batch_bytes=9 * frame_bytes)
    assert {len(batch.clips) for batch in cutter.push(frames(40))} == {2}


def test_a_shorter_clip_stands_in_the_middle_of_the_longest() -> None:
    assert cut_all(ClipRule(1, 1, 4, 5), 9, 4, 1) == [[2], [6]]
    assert cut_all(ClipRule(5, 1, 4, 5), 9, 4, 1) == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_a_batch_prints_shapes_not_contents() -> None:
    assert repr(SnippetBatch(np.zeros((2, 4, 8, 8, 3), np.uint8), 3)) == (
        "SnippetBatch(clips=(2, 4, 8, 8, 3) uint8, first_index=3)"
    )
    with pytest.raises(ValueError, match="is needed"):
        SnippetBatch(np.zeros((4, 8, 8, 3), np.uint8), 0)
