"""Average precision against the official code's numbers, a brute-force oracle and its own laws."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidOptions
from tests.training.evaluation import scenes
from training.evaluation.annotations import GroundTruth, Predictions
from training.evaluation.average_precision import average_precision
from training.evaluation.recall import multiple_recall

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation"
CONFIG = Path(__file__).parents[2] / "golden" / "postproc" / "config.json"
EXACT = {"rtol": 0, "atol": 1e-9}
FLOAT32 = {"rtol": 0, "atol": 1e-6}
TIOUS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@pytest.fixture(scope="module")
def golden():
    arrays = {}
    for name in ("inputs", "outputs"):
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
            arrays |= dict(stored)
    return arrays


@pytest.fixture(scope="module")
def tious():
    return tuple(json.loads(CONFIG.read_text())["eval"]["tiou"])


def truth_of(golden, first_label=0):
    video_count = int(max(golden["eval/gt_video"].max(), golden["eval/pred_video"].max())) + 1
    return GroundTruth(
        tuple(f"v{index}" for index in range(video_count)),
        tuple(f"c{index}" for index in range(8)),
        golden["eval/gt_video"],
        golden["eval/gt_segments"],
        golden["eval/gt_labels"] + first_label,
        np.full(video_count, np.nan),
    )


def found_in(golden, scores="pred_scores", first_label=0):
    return Predictions(
        golden["eval/pred_video"],
        golden["eval/pred_segments"],
        golden["eval/pred_labels"] + first_label,
        golden[f"eval/{scores}"],
    )


def with_absent_class(golden, found, label=None):
    labels = golden["eval/pred_labels_unknown_class"]
    return Predictions(
        np.concatenate([found.video_indices, golden["eval/pred_video_unknown_class"]]),
        np.concatenate([found.segments_s, golden["eval/pred_segments_unknown_class"]]),
        np.concatenate([found.label_indices, labels if label is None else np.full_like(labels, label)]),
        np.concatenate([found.scores, golden["eval/pred_scores_unknown_class"]]),
    )


@pytest.mark.parametrize(
    ("scores", "variant", "ties"),
    [
        # With ties the official order depends on the machine.
        ("notie", "official", "later_first"),
        ("notie", "stable_reversed", "later_first"),
        ("notie", "stable_descending", "earlier_first"),
        ("tied", "stable_reversed", "later_first"),
        ("tied", "stable_descending", "earlier_first"),
    ],
)
def test_precision_equals_the_official_activitynet_code(golden, tious, scores, variant, ties):
    found = found_in(golden, "pred_scores" if scores == "notie" else "pred_scores_tied")
    precision = average_precision(truth_of(golden), found, tious, ties=ties)
    key = f"map_anet/{scores}/{variant}"
    np.testing.assert_array_equal(precision.label_indices, golden["map_anet/class_ids"])
    np.testing.assert_allclose(precision.values, golden[f"{key}/ap_tiou_x_class"], **EXACT)
    np.testing.assert_allclose(precision.means, golden[f"{key}/mAP"], **EXACT)
    np.testing.assert_allclose(precision.means.mean(), golden[f"{key}/average_mAP"], **EXACT)


@pytest.mark.parametrize(
    ("case", "first_label", "absent_label", "absent"),
    [
        ("plain", 0, None, "leave_out"),
        ("with_class_absent_from_gt", 0, 6, "leave_out"),
        ("with_class_absent_from_gt", 0, 6, "mistake_for_place"),
        ("labels_from_1_plus_absent_class_0", 1, 0, "mistake_for_place"),
    ],
)
def test_precision_and_recall_equal_actionformers(golden, tious, case, first_label, absent_label, absent):
    truth, found = truth_of(golden, first_label), found_in(golden, first_label=first_label)
    if absent_label is not None:
        found = with_absent_class(golden, found, absent_label)
    precision = average_precision(truth, found, tious, absent=absent)
    key = f"map_actionformer/{case}"
    np.testing.assert_allclose(precision.values, golden[f"{key}/ap_tiou_x_class"], **EXACT)
    np.testing.assert_allclose(precision.means, golden[f"{key}/mAP"], **EXACT)
    np.testing.assert_allclose(precision.means.mean(), golden[f"{key}/average_mAP"], **EXACT)
    if absent == "leave_out":
        recall = multiple_recall(truth, found, tious)
        np.testing.assert_allclose(recall.values, golden[f"{key}/recall_tiou_x_k_x_class"], **EXACT)
        np.testing.assert_allclose(recall.means, golden[f"{key}/mean_recall_tiou_x_k"], **EXACT)


def test_a_class_without_instances_changes_nothing(golden, tious):
    found = found_in(golden, first_label=1)
    plain = average_precision(truth_of(golden, 1), found, tious)
    more = average_precision(truth_of(golden, 1), with_absent_class(golden, found, 0), tious)
    np.testing.assert_array_equal(plain.values, more.values)


def test_precision_equals_reacts_in_its_float32(golden, tious):
    precision = average_precision(truth_of(golden), found_in(golden), tious, ties="earlier_first")
    expected = golden["map_react/mAP_then_ap_per_class"]
    np.testing.assert_allclose(precision.means, expected[:, 0], **FLOAT32)
    np.testing.assert_allclose(precision.values, expected[:, 1 : 1 + precision.values.shape[1]], **FLOAT32)
    # ReAct lists a class without instances as 0 and leaves it out of the mean.
    assert not expected[:, 1 + precision.values.shape[1] :].any()


def overlap(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def brute_force(true, found, tiou, label, *, strict, ties):
    """AP of one class, one prediction and one instance at a time, straight from the definition."""
    instances = [row for row in true if row[3] == label]
    ranked = [row for row in (found if ties == "earlier_first" else found[::-1]) if row[3] == label]
    ranked.sort(key=lambda row: -row[4])
    free = set(range(len(instances)))
    points, right = [], 0
    for count, row in enumerate(ranked, start=1):
        best = None
        for index, instance in enumerate(instances):
            reached = overlap(row[1:3], instance[1:3])
            enough = reached > tiou if strict else reached >= tiou
            if index in free and instance[0] == row[0] and enough and (best is None or reached >= best[0]):
                best = reached, index
        if best is not None:
            free.remove(best[1])
            right += 1
        points.append((right / len(instances), right / count))
    levels = sorted({recall for recall, _ in points if recall > 0})
    heights = [max(precision for recall, precision in points if recall >= level) for level in levels]
    return sum((level - last) * height for last, level, height in zip([0, *levels], levels, heights, strict=False))


@given(scenes.true_rows, scenes.predicted_rows, st.booleans(), st.sampled_from(["later_first", "earlier_first"]))
def test_precision_equals_a_brute_force_count(true, found, strict, ties):
    precision = average_precision(scenes.ground_truth(true), scenes.predictions(found), TIOUS, strict=strict, ties=ties)
    assert precision.label_indices.tolist() == sorted({row[3] for row in true})
    for column, label in enumerate(precision.label_indices):
        expected = [brute_force(true, found, tiou, label, strict=strict, ties=ties) for tiou in TIOUS]
        np.testing.assert_allclose(precision.values[:, column], expected, **EXACT)


@given(scenes.true_rows)
def test_perfect_predictions_give_one(true):
    found = [(*row, 0.5) for row in true]
    assert average_precision(scenes.ground_truth(true), scenes.predictions(found), TIOUS).values.min() == 1


@given(scenes.true_rows, scenes.predicted_rows)
def test_false_predictions_of_low_score_never_raise_precision(true, found):
    truth = scenes.ground_truth(true)
    false = [(video, 100, 101, label, -1) for video in range(scenes.VIDEOS) for label in range(scenes.LABELS)]
    before = average_precision(truth, scenes.predictions(found), TIOUS).values
    after = average_precision(truth, scenes.predictions(found + false), TIOUS).values
    assert (after <= before).all()


def test_a_duplicate_lowers_precision():
    truth = scenes.ground_truth([(0, 0, 10, 0), (1, 0, 10, 0)])
    once = [(0, 0, 10, 0, 0.9), (1, 0, 10, 0, 0.5)]
    assert average_precision(truth, scenes.predictions(once), (0.5,)).values.item() == 1
    twice = [*once, (0, 0, 10, 0, 0.8)]
    # Right, wrong, right: (1 + 2/3) / 2.
    assert average_precision(truth, scenes.predictions(twice), (0.5,)).values.item() == pytest.approx(5 / 6)


def test_strict_matching_refuses_an_overlap_of_exactly_the_threshold():
    truth, found = scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([(0, 0, 5, 0, 1)])
    assert average_precision(truth, found, (0.5,)).values.item() == 1
    assert average_precision(truth, found, (0.5,), strict=True).values.item() == 0


def test_what_shares_time_with_an_ignored_instance_is_neither_right_nor_wrong():
    # c2 is ignored; a prediction of c0 on it would otherwise come first and be wrong.
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 20, 30, 2)])
    found = scenes.predictions([(0, 29, 50, 0, 0.9), (0, 0, 10, 0, 0.8), (1, 20, 30, 0, 0.1)])
    assert average_precision(truth, found, (0.5,), ignored_label="c2").values.tolist() == [[1]]
    without = replace(truth, video_indices=np.array([0, 1]))
    assert average_precision(without, found, (0.5,), ignored_label="c2").values.tolist() == [[0.5]]


def test_a_match_stays_right_where_it_shares_time_with_an_ignored_instance():
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 9, 30, 2)])
    found = scenes.predictions([(0, 0, 10, 0, 0.9)])
    assert average_precision(truth, found, (0.5,), ignored_label="c2").values.tolist() == [[1]]


def test_without_predictions_every_class_counts_zero():
    precision = average_precision(scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([]), TIOUS)
    assert not precision.values.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tious": ()}, "one or more numbers above 0"),
        ({"tious": (0.0, 0.5)}, r"thresholds are \(0.0, 0.5\)"),
        ({"tious": (50,)}, "up to 1"),
        ({"ties": "random"}, "'random'; accepted are later_first, earlier_first"),
        ({"absent": "keep"}, "'keep'; accepted are leave_out, mistake_for_place"),
        ({"ignored_label": "c0"}, "no instance of any class"),
    ],
)
def test_wrong_options_are_refused(options, message):
    truth, found = scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([(0, 0, 10, 0, 1)])
    with pytest.raises(InvalidOptions, match=message):
        average_precision(truth, found, **({"tious": (0.5,)} | options))
