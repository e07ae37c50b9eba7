"""The presets of data sets, what a result turns into, and published detections with their published figures."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.evaluation import scenes
from training.evaluation.annotations import Allowance, read_ground_truth, read_predictions
from training.evaluation.protocols import (
    ACTIVITYNET,
    CHARADES,
    EGO4D,
    EPIC,
    MULTITHUMOS,
    PROTOCOLS,
    THUMOS14,
    Protocol,
    evaluate,
)

AUTOLOC = [0.467, 0.417, 0.358, 0.290, 0.212, 0.134, 0.058, 0.016, 0.002]


def test_presets_have_the_thresholds_of_their_data_sets():
    assert THUMOS14.tious == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert ACTIVITYNET.tious == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert EPIC.tious == EGO4D.tious == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert MULTITHUMOS.tious == CHARADES.tious == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert [name for name, protocol in PROTOCOLS.items() if protocol.strict] == ["thumos14"]
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


def test_a_result_turns_into_figures_and_a_table():
    truth = scenes.ground_truth([(0, 0, 10, 0), (1, 0, 10, 1)])
    found = scenes.predictions([(0, 0, 10, 0, 0.9), (1, 0, 4, 1, 0.8)])
    result = evaluate(truth, found, Protocol("two", (0.25, 0.5)))
    assert result.summary() == {"mAP": {"0.25": 1.0, "0.5": 0.5}, "average": 0.75}
    assert result.by_class() == {"c0": {"0.25": 1.0, "0.5": 1.0}, "c1": {"0.25": 1.0, "0.5": 0.0}}
    assert result.table(classes=True).split("\n") == [
        "tIoU        0.25      0.5  average",
        "c0        100.00   100.00   100.00",
        "c1        100.00     0.00    50.00",
        "mAP       100.00    50.00    75.00",
    ]


def test_perfect_predictions_give_one_everywhere():
    rows = [(0, 0, 10, 0), (0, 20, 30, 1), (1, 5, 9, 1)]
    found = scenes.predictions([(*row, 1) for row in rows])
    for protocol in PROTOCOLS.values():
        # No overlap exceeds 1, but 1 exceeds every threshold of the presets.
        assert evaluate(scenes.ground_truth(rows), found, protocol).average == 1


def test_recall_is_part_of_the_result_where_the_protocol_asks_for_it():
    rows = [(0, 0, 10, 0), (0, 20, 30, 1), (1, 5, 9, 1)]
    truth, found = scenes.ground_truth(rows), scenes.predictions([(*row, 1) for row in rows])
    ego4d = evaluate(truth, found, EGO4D)
    assert ego4d.summary()["recall"]["1x"]["0.5"] == 1
    assert "R@5x" in ego4d.table()
    activitynet = evaluate(truth, found, ACTIVITYNET)
    assert activitynet.summary()["AR"]["100"] == 1
    assert list(activitynet.summary()["AR"]) == ["1", "5", "10", "50", "100", "AUC"]
    assert "AUC" in activitynet.table()


def test_ambiguous_instances_of_thumos14_are_no_class_and_spare_predictions():
    truth = replace(scenes.ground_truth([(0, 0, 10, 0), (0, 20, 30, 2)]), labels=("run", "jump", "Ambiguous"))
    found = scenes.predictions([(0, 22, 28, 0, 0.9), (0, 0, 10, 0, 0.8)])
    result = evaluate(truth, found, THUMOS14)
    assert result.labels == ("run",)
    assert result.average == 1


AMBIGUOUS_SCENE = [(0, 0, 10, 0), (0, 20, 30, 0), (0, 40, 50, 2), (1, 0, 10, 1)]
# What each is at 0.3 by THUMOS14's rule, and the precision at those that are right.
RUNS = [
    (0, 38, 42, 0, 0.9),  # spared: no instance, but it shares 2 s with the ambiguous one
    (0, 0, 10, 0, 0.8),  # right, the first of one: 1
    (0, 0, 9, 0, 0.7),  # wrong: that instance is taken
    (0, 50, 60, 0, 0.6),  # wrong: it only touches the ambiguous instance
    (0, 24, 45, 0, 0.5),  # spared: 6 s of 25 s are not enough, and it shares 5 s with the ambiguous one
    (0, 20, 30, 0, 0.4),  # right, the second of four: 1/2
]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], (1 + 1 / 2) / 2),
        # What is ambiguous in one video is nothing in another: one of two, two of five.
        ([(1, 40, 50, 0, 0.95)], (1 / 2 + 2 / 5) / 2),
        # An ambiguous instance spares predictions of every class; it is not used up by sparing one.
        ([(0, 41, 49, 0, 0.95), (0, 41, 49, 0, 0.94), (0, 41, 49, 1, 0.93)], (1 + 1 / 2) / 2),
        # A second prediction of a found instance that reaches into the ambiguous one is spared, too.
        ([(0, 20, 41, 0, 0.3)], (1 + 1 / 2) / 2),
    ],
)
def test_thumos14s_rule_of_ambiguous_instances_gives_the_precision_worked_out_by_hand(more, expected):
    truth = replace(scenes.ground_truth(AMBIGUOUS_SCENE), labels=("run", "jump", "Ambiguous"))
    found = scenes.predictions([*RUNS, *more, (1, 0, 10, 1, 0.5)])
    by_class = evaluate(truth, found, THUMOS14).by_class()
    assert by_class["run"]["0.3"] == pytest.approx(expected)
    assert by_class["jump"]["0.3"] == 1
    assert list(by_class) == ["run", "jump"]


def test_without_the_rule_the_same_predictions_are_wrong():
    truth = replace(scenes.ground_truth(AMBIGUOUS_SCENE), labels=("run", "jump", "Ambiguous"))
    plain = replace(THUMOS14, ignored_label=None)
    by_class = evaluate(truth, scenes.predictions(RUNS), plain).by_class()
    # One of two, two of six.
    assert by_class["run"]["0.3"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert by_class["Ambiguous"]["0.3"] == 0


@pytest.mark.needs_assets
def test_published_detections_give_the_published_table(assets):
    """AutoLoc on THUMOS14: three videos of its predictions are not annotated, and count as wrong."""
    folder = assets / "evaluation"
    truth = read_ground_truth(folder / "autoloc_th14_gt.json")
    found = read_predictions(folder / "autoloc_th14_results.json", truth, Allowance(unknown_videos=True))
    result = evaluate(truth, found, MULTITHUMOS)
    assert [round(value, 3) for value in result.summary()["mAP"].values()] == AUTOLOC
    assert round(result.average, 3) == 0.217


def test_the_evaluator_runs_without_torch():
    command = "import sys; import training.evaluation.protocols; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[3])


def test_predictions_for_videos_without_annotations_are_wrong_and_match_nothing():
    # The place after the last video must not fall on the first video of the next class.
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 0, 10, 1)])
    found = scenes.predictions([(scenes.VIDEOS, 0, 10, 0, 0.9), (0, 0, 10, 0, 0.8), (0, 0, 10, 1, 0.7)])
    result = evaluate(truth, found, replace(ACTIVITYNET, multiples=(1,)))
    assert result.by_class()["c0"]["0.5"] == 0.5
    assert result.by_class()["c1"]["0.5"] == 1
    assert result.summary()["recall"]["1x"]["0.5"] == 1
    assert result.summary()["AR"]["100"] == 1
