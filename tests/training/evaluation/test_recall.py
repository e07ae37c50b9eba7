"""Recall per number of proposals and per multiple of the truth, against brute force and worked cases."""

import numpy as np
import pytest
from hypothesis import given

from service.errors import InvalidOptions
from tests.training.evaluation import scenes
from training.evaluation.recall import multiple_recall, proposal_recall

TIOUS = (0.1, 0.5, 0.9)


def overlap(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def best_first(found, video, label=None):
    rows = [row for row in reversed(found) if row[0] == video and label in (None, row[3])]
    return sorted(rows, key=lambda row: -row[4])


def finds(rows, instance, tiou):
    return any(overlap(row[1:3], instance[1:3]) >= tiou for row in rows)


@given(scenes.true_rows, scenes.predicted_rows)
def test_proposal_recall_equals_a_brute_force_count(true, found):
    recall = proposal_recall(scenes.ground_truth(true), scenes.predictions(found), TIOUS, most=4)
    videos = {row[0] for row in true}
    spent = {}
    for video in videos:
        rows = best_first(found, video)
        spent[video] = rows[: min(int(len(rows) * (4.0 * len(videos) / max(len(found), 1))), len(rows))]
    total = sum(len(rows) for rows in spent.values())
    for step in (1, 37, 100):
        share = step / 100 * (4.0 * len(videos) / total) if total else 0
        for row, tiou in enumerate(TIOUS):
            hits = sum(finds(spent[i[0]][: int(len(spent[i[0]]) * share)], i, tiou) for i in true)
            assert recall.recalls[row, step - 1] == pytest.approx(hits / len(true), abs=1e-12)
    assert recall.proposals[-1] == pytest.approx(4)


@given(scenes.true_rows, scenes.predicted_rows)
def test_multiple_recall_equals_a_brute_force_count(true, found):
    recall = multiple_recall(scenes.ground_truth(true), scenes.predictions(found), TIOUS, multiples=(1, 3))
    for column, label in enumerate(recall.label_indices):
        instances = [row for row in true if row[3] == label]
        for place, multiple in enumerate((1, 3)):
            for row, tiou in enumerate(TIOUS):
                hits = 0
                for instance in instances:
                    count = sum(other[0] == instance[0] for other in instances)
                    hits += finds(best_first(found, instance[0], label)[: multiple * count], instance, tiou)
                assert recall.values[row, place, column] == pytest.approx(hits / len(instances), abs=1e-12)


@given(scenes.true_rows, scenes.predicted_rows)
def test_recall_never_falls_with_more_predictions(true, found):
    truth, predictions = scenes.ground_truth(true), scenes.predictions(found)
    assert (np.diff(proposal_recall(truth, predictions, TIOUS).recalls, axis=1) >= 0).all()
    assert (np.diff(multiple_recall(truth, predictions, TIOUS, multiples=(1, 2, 5)).values, axis=1) >= 0).all()


def test_the_area_under_a_worked_curve():
    # One video, two proposals, the second of which is right: nothing for less than two, all from then on.
    truth = scenes.ground_truth([(0, 0, 10, 0)], videos=1)
    recall = proposal_recall(truth, scenes.predictions([(0, 50, 60, 0, 0.9), (0, 0, 10, 1, 0.1)]), TIOUS, most=4)
    np.testing.assert_allclose(recall.proposals, np.arange(1, 101) * 0.04)
    np.testing.assert_array_equal(recall.averages, np.arange(1, 101) >= 50)
    assert recall.area == pytest.approx((50 + 0.5) * 0.04 / 4)


def test_without_predictions_recall_is_zero():
    truth, none = scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([])
    assert proposal_recall(truth, none, TIOUS).area == 0
    assert not multiple_recall(truth, none, TIOUS).values.any()


def test_what_cannot_be_measured_is_refused():
    none, found = scenes.ground_truth([]), scenes.predictions([])
    with pytest.raises(InvalidOptions, match="no instance"):
        proposal_recall(none, found, TIOUS)
    with pytest.raises(InvalidOptions, match="no instance"):
        multiple_recall(none, found, TIOUS)
    with pytest.raises(InvalidOptions, match=r"multiples are \(0,\)"):
        multiple_recall(scenes.ground_truth([(0, 0, 1, 0)]), found, TIOUS, multiples=(0,))
