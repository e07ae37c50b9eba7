"""From detections to segments: fusion, suppression scopes, choice, and what callers may ask for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Manifest
from models.postprocessing import ActivationGrouping, Fusion, Postprocessing
from service.errors import InvalidOptions
from service.localization import DetectOptions
from service.pipeline import segments
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import Detections
from tests.support import bundles as tiny

LABELS = ("jump", "run", "throw")
GRID = SnippetGrid(np.arange(100) / 10.0, 10.0, 1, 0)


def rules(**fields) -> Postprocessing:
    return Postprocessing.model_validate_json(json.dumps(fields))


def detections(*rows: tuple[float, float, float, int], windows: list[int] | None = None, knows_class: bool = True):
    table = np.array(rows, np.float64).reshape(-1, 4)
    return Detections(
        table[:, :2],
        table[:, 2],
        table[:, 3].astype(np.int64),
        np.array(windows if windows is not None else [0] * len(table), np.int64),
        knows_class,
    )


def finalize(found: Detections, post: Postprocessing, video_scores=None, **options):
    wanted = DetectOptions(**options)
    result = segments.finalize(found, GRID, post, LABELS, wanted, video_scores)
    return [(s.start_s, s.end_s, s.label, round(s.score, 6)) for s in result]


def test_spans_become_seconds_best_first() -> None:
    found = detections((10, 20, 0.5, 0), (30, 45, 0.9, 2))
    assert finalize(found, rules()) == [(3.0, 4.5, "throw", 0.9), (1.0, 2.0, "jump", 0.5)]


def test_segments_stay_inside_the_video() -> None:
    found = detections((-20, 20, 0.5, 0), (90, 140, 0.4, 0), (120, 130, 0.9, 0))
    assert finalize(found, rules()) == [(0.0, 2.0, "jump", 0.5), (9.0, 10.0, "jump", 0.4)]


def test_suppression_is_per_class_unless_the_bundle_says_otherwise() -> None:
    found = detections((0, 10, 0.9, 0), (1, 10, 0.8, 0), (0, 10, 0.7, 1))
    hard = {"kind": "hard", "iou_threshold": 0.5}
    assert [row[2] for row in finalize(found, rules(nms=hard))] == ["jump", "run"]
    assert [row[2] for row in finalize(found, rules(nms=hard, class_agnostic=True))] == ["jump"]


@pytest.mark.parametrize(("scope", "kept"), [("window", 2), ("video", 1), ("window_then_video", 1)])
def test_suppression_knows_its_scope(scope: str, kept: int) -> None:
    found = detections((0, 10, 0.9, 0), (1, 10, 0.8, 0), (0, 9, 0.7, 0), windows=[0, 0, 1])
    assert len(finalize(found, rules(nms={"kind": "hard", "iou_threshold": 0.5}, nms_scope=scope))) == kept


def test_lengths_outside_the_bounds_leave_before_they_suppress_anything() -> None:
    found = detections((0, 60, 0.9, 0), (0, 50, 0.8, 0), (0, 1, 0.7, 0))
    post = rules(nms={"kind": "hard", "iou_threshold": 0.5}, max_length_s=5.5, min_length_s=0.2)
    assert finalize(found, post) == [(0.0, 5.0, "jump", 0.8)]


VIDEO_SCORES = np.array([0.1, 0.64, 0.25])


def test_a_detector_without_classes_takes_the_likeliest_ones_of_the_video() -> None:
    found = detections((10, 20, 0.25, 0), knows_class=False)
    product = rules(fusion={"rule": "product", "classes": 2})
    assert finalize(found, product, VIDEO_SCORES) == [(1, 2, "run", 0.16), (1, 2, "throw", 0.0625)]
    root = rules(fusion={"rule": "sqrt", "classes": 1})
    assert finalize(found, root, VIDEO_SCORES) == [(1, 2, "run", 0.4)]


def test_a_detector_with_classes_keeps_those_that_the_video_likely_holds() -> None:
    found = detections((10, 20, 0.5, 0), (10, 20, 0.5, 1))
    assert finalize(found, rules(fusion={"rule": "product", "classes": 2}), VIDEO_SCORES) == [(1, 2, "run", 0.32)]


def test_the_best_class_score_of_a_candidate_can_stand_for_all_classes() -> None:
    found = detections((10, 20, 0.5, 0))
    post = rules(fusion={"rule": "product", "classes": 1, "detector_score": "max_over_classes"})
    assert finalize(found, post, VIDEO_SCORES) == [(1, 2, "run", 0.32)]


def test_fusing_before_suppression_can_change_who_wins() -> None:
    found = detections((0, 10, 0.9, 0), (0, 9, 0.8, 1))
    hard = {"kind": "hard", "iou_threshold": 0.5}
    common = {"nms": hard, "class_agnostic": True}
    before = rules(**common, fusion={"rule": "product", "classes": 3, "when": "before_nms"})
    after = rules(**common, fusion={"rule": "product", "classes": 3, "when": "after_nms"})
    assert [row[2] for row in finalize(found, before, VIDEO_SCORES)] == ["run"]
    assert [row[2] for row in finalize(found, after, VIDEO_SCORES)] == ["jump"]


def test_fusion_without_video_scores_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(InvalidOptions, match="video-level class scores"):
        segments.fuse(detections((0, 1, 0.5, 0)), None, Fusion())


def test_scores_that_leave_the_unit_range_are_mapped_for_use_and_raw_for_evaluation() -> None:
    found = detections((0, 10, 1.25, 0), (20, 30, -0.1, 0), (40, 50, 0.5, 0))
    mapped = [row[3] for row in finalize(found, rules(score_map={"divide_by": 1.25}))]
    assert mapped == [1.0, 0.4, 0.0]
    assert [row[3] for row in finalize(found, rules(score_map=None))] == [1.25, 0.5, -0.1]


def test_what_the_caller_asks_for_goes_before_the_defaults_of_the_bundle() -> None:
    found = detections((0, 10, 0.9, 0), (20, 30, 0.6, 1), (40, 50, 0.3, 2))
    post = rules(min_score=0.5, top_k=1)
    assert len(finalize(found, post)) == 1
    assert [row[2] for row in finalize(found, post, min_score=0.0, top_k=5)] == list(LABELS)
    assert [row[2] for row in finalize(found, post, labels=("run",), top_k=1)] == ["run"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DetectOptions(min_score=1.5), "min_score is 1.5; it lies between 0 and 1"),
        (DetectOptions(top_k=0), "top_k is 0; it is at least 1"),
        (DetectOptions(labels=("jumb",)), "label 'jumb' is not one of the model's; near it: jump"),
    ],
)
def test_options_that_no_answer_can_satisfy_are_refused(options: DetectOptions, message: str) -> None:
    with pytest.raises(InvalidOptions, match=message):
        segments.check_options(options, LABELS)


def manifest(**changes) -> Manifest:
    described = tiny.manifest(files={"features.rgb.onnx": {"sha256": "0" * 64, "size_bytes": 1}}, **changes)
    return Manifest.model_validate_json(json.dumps(described))


def grouping(**fields) -> ActivationGrouping:
    chosen = {"threshold": {"kind": "absolute", "values": [0.5]}, **fields}
    return ActivationGrouping.model_validate_json(json.dumps(chosen))


def test_activations_of_a_label_group_add_up_and_replace_their_members() -> None:
    described = manifest(labels=["run", "walk", "sit"], label_groups=[{"label": "move", "members": ["run", "walk"]}])
    curves = np.zeros((100, 3))
    curves[20:40, :2] = 0.4
    found = segments.from_activations(curves, curves.max(axis=0), GRID, 1, described, grouping(support="mean"))
    assert found.spans.tolist() == [[20, 40]]
    assert [described.segment_labels[label] for label in found.labels] == ["move"]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_a_window_supports_its_whole_span() -> None:
    grid = SnippetGrid(np.arange(100) / 10.0, 10.0, 10, 5)
    curves = np.zeros((10, 2))
    curves[3, 0] = 1.0
    found = segments.from_activations(curves, curves.max(axis=0), grid, 10, manifest(), grouping(support="mean"))
    assert grid.to_seconds(found.spans).tolist() == [[3.0, 4.0]]


def test_no_span_reaches_beyond_the_frames_of_the_video() -> None:
    grid = SnippetGrid(np.arange(95) / 10.0, 9.5, 10, 5)
    curves = np.ones((10, 2))
    found = segments.from_activations(curves, curves.max(axis=0), grid, 10, manifest(), grouping(support="max"))
    assert grid.to_seconds(found.spans).tolist() == [[0.0, 9.5]] * 2


@given(st.lists(st.tuples(st.floats(0, 90), st.floats(0.1, 30), st.floats(0.01, 1), st.integers(0, 2)), max_size=40))
def test_segments_are_ordered_within_the_video_and_of_positive_length(rows) -> None:
    found = detections(*((start, start + length, score, label) for start, length, score, label in rows))
    result = segments.finalize(found, GRID, rules(nms={"kind": "gaussian"}), LABELS, DetectOptions())
    assert all(0 <= s.start_s < s.end_s <= 10 and 0 <= s.score <= 1 for s in result)
    assert [s.score for s in result] == sorted((s.score for s in result), reverse=True)
