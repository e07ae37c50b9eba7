"""Grouping of class activations against CMCS's published numbers, naive implementations and its own laws."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.pipeline.activations import (
    Grouping,
    Threshold,
    covering,
    dilate,
    find_runs,
    group,
    inner_outer,
    join,
    normalise,
    spread,
    sum_groups,
    upsample,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "cmcs"
SETS = sorted(path.name for path in GOLDEN.glob("random_*"))


class Golden:
    def __init__(self, name):
        self.config = json.loads((GOLDEN / name / "config.json").read_text())
        self.inputs, self.outputs = (dict(np.load(GOLDEN / name / f"{part}.npz")) for part in ("inputs", "outputs"))

    def rules(self, **changes):
        params = self.config["detect_params"]
        options = {
            "threshold": Threshold("mean", (params["thrh_value"],)),
            "dilation_frames": self.config["detect_params_proc_value_frames"],
            "score": "inner_outer",
            "outer_context": "cmcs",
        }
        return Grouping(**(options | changes))

    def ticks(self, frame_count):
        rate = self.config["sample_rate"]
        if self.config["feature_type"] == "untri":
            return np.arange(0, frame_count, rate)
        return np.arange(0, frame_count - self.config["base_snippet_size"] + 1, rate)


@pytest.fixture(scope="module", params=SETS)
def golden(request):
    return Golden(request.param)


def curves_of(golden):
    return sorted(name for name in golden.inputs if name.startswith("cas/"))


def mask_of(runs, length):
    mask = np.zeros(length, dtype=bool)
    for start, end in runs:
        mask[start:end] = True
    return mask


def test_runs_of_an_activation_curve_equal_cmcs(golden):
    for name in curves_of(golden):
        curve, expected = golden.inputs[name], golden.outputs
        active = curve > golden.config["detect_params"]["thrh_value"] * curve.mean()
        np.testing.assert_array_equal(active, expected[f"{name}/mask_before_dilation"])
        widened = dilate(find_runs(active), golden.config["detect_params_proc_value_frames"], len(curve))
        np.testing.assert_array_equal(mask_of(widened, len(curve)), expected[f"{name}/mask"])


def test_spans_and_scores_of_an_activation_curve_equal_cmcs(golden):
    for name in curves_of(golden):
        curve, expected = golden.inputs[name], golden.outputs[f"{name}/start_end_score"]
        found = group(curve[:, None], None, np.arange(len(curve)), golden.rules())
        np.testing.assert_array_equal(found.spans, expected[:, :2])
        np.testing.assert_allclose(found.scores, expected[:, 2], atol=1e-12)


def test_upsampling_equals_cmcs(golden):
    values, expected = golden.outputs["interp/in"], golden.outputs["interp/out"]
    ticks = np.arange(len(values)) * (len(expected) - 1) / (len(values) - 1)
    np.testing.assert_allclose(upsample(values, ticks), expected, atol=1e-12)


@pytest.mark.parametrize("stream", ["rgb", "flow", "both", "late-fusion"])
def test_detections_of_whole_videos_equal_cmcs(golden, stream):
    params, rows = golden.config["detect_params"], []
    for video, fps in enumerate(golden.config["fps"]):
        stored = f"video/{video}/{stream}/crop_mean"
        found = group(
            softmax(golden.outputs[f"{stored}/avg_score"])[:, :-1],
            softmax(golden.outputs[f"{stored}/global_score"])[:-1],
            golden.ticks(int(golden.inputs[f"video/{video}/frame_cnt"])),
            golden.rules(
                min_video_score=params["global_score_thrh"],
                normalise="minmax",
                global_weight=params["weight_global"],
            ),
        )
        times_s = np.clip(found.spans / fps, 0, golden.inputs[f"video/{video}/duration"])
        rows.append(np.column_stack([np.full(len(times_s), video), found.labels, times_s, found.scores]))
    expected = golden.outputs[f"det/{stream}/video_class_start_end_score"]
    found_rows = np.concatenate(rows)
    np.testing.assert_allclose(found_rows[:, :4], expected[:, :4], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found_rows[:, 4], expected[:, 4], rtol=0, atol=1e-5)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


relaxed = settings(deadline=None, max_examples=60)
masks = st.lists(st.booleans(), max_size=40).map(lambda bits: np.array(bits, dtype=bool))
values = st.floats(0, 1, width=32)


def curve(min_size=1, max_size=24):
    return st.lists(values, min_size=min_size, max_size=max_size).map(np.array)


@relaxed
@given(masks)
def test_runs_partition_the_mask(mask):
    runs = find_runs(mask)
    np.testing.assert_array_equal(mask_of(runs, len(mask)), mask)
    assert all(start < end for start, end in runs)
    assert all(before[1] < after[0] for before, after in pairwise(runs))


@relaxed
@given(masks, st.integers(0, 9))
def test_dilation_equals_moving_a_footprint_over_the_mask(mask, footprint):
    expected = np.zeros_like(mask)
    for frame in np.flatnonzero(mask):
        left = frame - footprint // 2
        for reached in range(left, left + max(footprint, 1)):
            if 0 <= reached < len(mask):
                expected[reached] = True
    np.testing.assert_array_equal(mask_of(dilate(find_runs(mask), footprint, len(mask)), len(mask)), expected)


def test_an_even_footprint_reaches_one_frame_less_to_the_right():
    assert dilate(np.array([[20, 30]]), 20, 100).tolist() == [[10, 39]]
    assert dilate(np.array([[20, 30]]), 5, 100).tolist() == [[18, 32]]


@relaxed
@given(masks, st.integers(0, 5))
def test_joining_closes_exactly_the_short_gaps(mask, gap):
    joined = join(find_runs(mask), gap)
    expected = mask.copy()
    for (_, end), (start, _) in pairwise(find_runs(mask)):
        expected[end:start] = start - end <= gap
    np.testing.assert_array_equal(mask_of(joined, len(mask)), expected)
    assert all(after[0] - before[1] > gap for before, after in pairwise(joined))


@relaxed
@given(curve(), st.integers(1, 5), st.integers(1, 30), st.sampled_from(["mean", "max"]))
def test_spreading_equals_looking_at_every_window_of_every_frame(scores, stride, window, support):
    starts = 7.0 + np.arange(len(scores)) * stride
    frames = spread(scores, covering(starts, window), support)
    assert len(frames) == (len(scores) - 1) * stride + window
    for offset, found in enumerate(frames):
        inside = [s for s, start in zip(scores, starts, strict=True) if start <= 7 + offset < start + window]
        expected = 0.0 if not inside else np.mean(inside) if support == "mean" else max(inside)
        assert found == pytest.approx(expected, abs=1e-12)


@relaxed
@given(curve(), st.integers(-500, 500), st.sampled_from(["point", "mean", "max"]))
def test_later_positions_move_the_spans_and_nothing_else(scores, shift, support):
    rules = Grouping(Threshold("mean", (0.5, 1.0)), support=support, dilation_frames=4, score="inner_outer")
    ticks = np.arange(len(scores)) * 4.0
    here, there = (group(scores[:, None], [1.0], at, rules, 8) for at in (ticks, ticks + shift))
    np.testing.assert_array_equal(here.spans + shift, there.spans)
    np.testing.assert_array_equal(here.scores, there.scores)


@relaxed
@given(curve(), st.sampled_from(["inner", "inner_outer", "max"]), st.integers(0, 12), st.integers(0, 9))
def test_spans_stay_on_the_curve_and_scores_in_range(scores, score, dilation, gap):
    rules = Grouping(normalise="minmax", score=score, dilation_frames=dilation, max_gap_frames=gap)
    found = group(scores[:, None], None, np.arange(len(scores)) * 3, rules)
    assert (found.spans >= 0).all()
    assert (found.spans <= (len(scores) - 1) * 3 + 1).all()
    assert (np.abs(found.scores) <= 1 + 1e-12).all()


@relaxed
@given(values, st.integers(1, 9), st.sampled_from(["none", "minmax"]), st.sampled_from(["point", "mean", "max"]))
def test_a_constant_curve_never_exceeds_its_own_mean(value, length, normalisation, support):
    rules = Grouping(Threshold("mean"), normalise=normalisation, support=support)
    found = group(np.full((length, 1), value), None, np.arange(length) * 4, rules, 12)
    assert len(found.spans) == 0


def test_normalising_a_constant_curve_gives_zeros():
    np.testing.assert_array_equal(normalise(np.full(5, 0.7)), np.zeros(5))
    np.testing.assert_allclose(normalise(np.array([2.0, 4.0, 3.0])), [0, 1, 0.5])


def test_only_classes_of_the_video_are_grouped():
    curves = np.tile([[0.0], [1.0], [0.0]], (1, 4))
    rules = Grouping(Threshold("absolute", (0.4,)), min_video_score=0.1, max_classes=2)
    assert group(curves, [0.1, 0.2, 0.9, 0.3], [0, 1, 2], rules).labels.tolist() == [2, 3]


def test_a_sweep_of_thresholds_finds_the_union_of_their_runs():
    scores = np.array([0, 0.4, 0.9, 0.4, 0.9, 0.4, 0])[:, None]
    found = group(scores, None, np.arange(7), Grouping(Threshold("absolute", (0.2, 0.3, 0.5)), score="max"))
    assert found.spans.tolist() == [[1, 6], [2, 3], [4, 5]]
    np.testing.assert_allclose(found.scores, 0.9)


@pytest.mark.parametrize(
    ("kind", "value", "expected"), [("absolute", 0.4, [1, 3]), ("mean", 1.5, [1, 2]), ("max", 0.25, [0, 3])]
)
def test_a_threshold_is_absolute_or_relative_to_the_curve(kind, value, expected):
    scores = np.array([0.3, 0.8, 0.5, 0.0])[:, None]
    found = group(scores, None, np.arange(4), Grouping(Threshold(kind, (value,))))
    assert found.spans.tolist() == [expected]


def test_gaps_close_before_short_runs_are_dropped():
    scores = np.array([1, 0, 1, 0, 0, 0, 1.0])[:, None]
    rules = Grouping(Threshold("absolute", (0.5,)), max_gap_frames=1, min_length_frames=2)
    assert group(scores, None, np.arange(7), rules).spans.tolist() == [[0, 3]]


def test_a_context_cut_off_by_the_start_is_empty_for_cmcs_and_short_otherwise():
    frames = np.array([0.2, 0.2] + [1.0] * 20 + [0.4] * 10)
    inside_minus_right = 1.0 - 0.4
    assert inner_outer(frames, 2, 22, context="cmcs") == pytest.approx(inside_minus_right)
    assert inner_outer(frames, 2, 22) == pytest.approx(1.0 - (2 * 0.2 + 5 * 0.4) / 7)


def test_a_run_over_the_whole_curve_has_no_context():
    assert inner_outer(np.full(6, 0.5), 0, 6) == 0.5


def test_the_video_score_is_added_with_its_weight():
    rules = Grouping(Threshold("absolute", (0.5,)), global_weight=0.25)
    assert group([[0.0], [1.0], [0.0]], [0.8], [0, 1, 2], rules).scores.tolist() == [1.2]


def test_label_groups_add_the_curves_of_their_members():
    summed = sum_groups([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]], [[0, 2], [1]])
    np.testing.assert_allclose(summed, [[0.4, 0.2], [0.4, 0.5]])


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
@pytest.mark.parametrize("support", ["point", "mean", "max"])
def test_nothing_in_gives_nothing_out(shape, support):
    found = group(np.zeros(shape), np.zeros(shape[1]), np.arange(shape[0]), Grouping(support=support))
    assert [column.shape for column in found] == [(0, 2), (0,), (0,)]


@pytest.mark.parametrize(
    ("activations", "video_scores", "ticks", "message"),
    [
        ([[np.nan]], None, [0], "activations hold nan; only finite"),
        ([0.5], None, [0], r"activations have shape \(1,\); 2 dimensions"),
        ([[0.5]], [0.1, 0.2], [0], "2 video_scores; activations of 1 classes"),
        ([[0.5]], None, [0, 1], "2 ticks_frames; activations with 1 rows"),
        ([[0.5], [0.5]], None, [3, 3], "ticks_frames do not rise after index 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(activations, video_scores, ticks, message):
    with pytest.raises(ValueError, match=message):
        group(activations, video_scores, ticks, Grouping())


@pytest.mark.parametrize("option", [{"min_video_score": 0.1}, {"max_classes": 1}, {"global_weight": 0.25}])
def test_rules_about_the_video_need_its_scores(option):
    with pytest.raises(ValueError, match="need video_scores; there are none"):
        group([[0.5]], None, [0], Grouping(**option))


def test_a_threshold_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one is needed"):
        Threshold("mean", ())
