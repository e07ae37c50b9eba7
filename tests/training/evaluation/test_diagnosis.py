"""The diagnosis of scenes that can be worked out by hand, and its laws on random ones."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from service.errors import InvalidOptions
from tests.training.evaluation import scenes
from training.evaluation.annotations import parse_ground_truth, parse_predictions
from training.evaluation.diagnosis import BORDERS, ERRORS, KINDS, Borders, borders_of, diagnose
from training.evaluation.protocols import PROTOCOLS, THUMOS14, Protocol

HALF = Protocol("half", (0.5,))


def shares(diagnosis, place=0):
    return {kind: share for kind, share in diagnosis.profile[place].items() if share}


def with_durations(truth, *durations_s):
    return replace(truth, durations_s=np.array(durations_s, dtype=np.float64))


@pytest.mark.parametrize(
    ("predicted", "kind"),
    [
        ((0, 0, 10, 0), "true positive"),
        ((0, 0, 5, 0), "true positive"),
        ((0, 0, 10, 1), "wrong label"),
        ((0, 0, 4, 0), "localization"),
        ((0, 0, 1, 0), "localization"),
        ((0, 0, 4, 1), "confusion"),
        ((0, 0, 0.9, 0), "background"),
        ((0, 15, 19, 0), "background"),
        ((1, 0, 10, 0), "background"),
        ((scenes.VIDEOS, 0, 10, 0), "background"),
    ],
)
def test_a_prediction_is_of_the_kind_that_its_overlap_and_label_say(predicted, kind):
    # The second instance makes c1 a class; it lies where no prediction is.
    truth = scenes.ground_truth([(0, 0, 10, 0), (2, 50, 60, 1)])
    assert shares(diagnose(truth, scenes.predictions([(*predicted, 0.9)]), HALF)) == {kind: 1}


def test_a_second_prediction_of_an_instance_is_a_double_detection():
    truth = scenes.ground_truth([(0, 0, 10, 0), (1, 0, 10, 0)])
    found = scenes.predictions([(0, 0, 10, 0, 0.9), (0, 0, 9, 0, 0.8)])
    assert shares(diagnose(truth, found, HALF)) == {"true positive": 0.5, "double detection": 0.5}


def test_of_equal_overlaps_the_instance_of_the_same_class_counts():
    # One action under two labels, as CliffDiving is Diving, too.
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 0, 10, 1)])
    found = scenes.predictions([(0, 0, 10, 1, 0.9), (0, 0, 10, 1, 0.8)])
    assert shares(diagnose(truth, found, HALF), 1) == {"double detection": 1}


def test_slices_hold_as_many_predictions_of_each_class_as_it_has_instances():
    # c0 has two instances, c1 one: slices of two and one, so the first holds three predictions, the second one.
    truth = scenes.ground_truth([(0, 0, 10, 0), (1, 0, 10, 0), (2, 0, 10, 1)])
    found = [(0, 0, 10, 0, 0.9), (1, 0, 10, 0, 0.8), (2, 0, 10, 1, 0.1), (0, 90, 95, 0, 0.7)]
    profile = diagnose(truth, scenes.predictions(found), HALF).profile
    assert [dict(part)["true positive"] for part in profile] == [1, 0]
    assert profile[1]["background"] == 1


def test_a_prediction_is_counted_at_every_threshold():
    truth, found = scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([(0, 0, 6, 0, 1)])
    diagnosis = diagnose(truth, found, Protocol("two", (0.5, 0.75)))
    assert shares(diagnosis) == {"true positive": 0.5, "localization": 0.5}
    assert diagnosis.missed == 0.5


def test_removing_an_error_gains_what_it_cost():
    # Background first, then the instance: precision 1/2, and 1 without the background.
    truth = scenes.ground_truth([(0, 0, 10, 0)])
    diagnosis = diagnose(truth, scenes.predictions([(0, 50, 60, 0, 0.9), (0, 0, 10, 0, 0.8)]), HALF)
    assert diagnosis.normalized_map == diagnosis.top_normalized_map == 0.5
    assert diagnosis.gains == dict.fromkeys(ERRORS, 0.0) | {"background": 0.5}


def test_precision_is_that_of_a_class_of_average_size():
    # c0 has three instances, c1 one: on average two. c0 finds one of three behind one error: recall 1/3,
    # precision (1/3·2)/(1/3·2 + 1) = 2/5; c1 finds nothing. Mean: (1/3·2/5 + 0)/2.
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 20, 30, 0), (1, 0, 10, 0), (2, 0, 10, 1)])
    found = scenes.predictions([(0, 50, 60, 0, 0.9), (0, 0, 10, 0, 0.8)])
    assert diagnose(truth, found, HALF).normalized_map == pytest.approx(1 / 15)


def test_instances_fall_into_buckets_by_coverage_length_and_number():
    rows = [(0, 0, 10, 0), (0, 20, 60, 0), (1, 0, 31, 0), (2, 0, 30, 1)]
    truth = with_durations(scenes.ground_truth(rows), 100, 100, 30)
    found = scenes.predictions([(0, 0, 10, 0, 0.9), (0, 20, 60, 0, 0.8), (2, 0, 30, 1, 0.7)])
    buckets = diagnose(truth, found, HALF).buckets
    counts = {name: [bucket.instances for bucket in some] for name, some in buckets.items()}
    assert counts == {"coverage": [1, 2, 0, 0, 1], "length_s": [2, 2, 0, 0, 0], "instances": [2, 2, 0, 0]}
    assert [bucket.missed for bucket in buckets["length_s"]] == [0, 0.5, None, None, None]
    assert [bucket.normalized_map for bucket in buckets["length_s"]] == [1, 0.5, None, None, None]
    assert [bucket.name for bucket in buckets["instances"]] == ["XS", "S", "M", "L"]


def test_a_bucket_leaves_predictions_of_other_instances_aside_but_not_errors():
    truth = scenes.ground_truth([(0, 0, 40, 0), (0, 50, 60, 0)])
    found = scenes.predictions([(0, 0, 40, 0, 0.9), (1, 0, 9, 0, 0.8), (0, 50, 60, 0, 0.7)])
    short, long = diagnose(truth, found, HALF).buckets["length_s"][:2]
    # The class has two instances, so that finding all short ones counts as two behind one error: 2/(2 + 1).
    assert short.normalized_map == pytest.approx(2 / 3)
    assert long.normalized_map == 1


def test_an_instance_found_only_at_hardly_any_precision_counts_as_missed():
    truth = scenes.ground_truth([(0, 0, 10, 0)])
    errors = [(0, 50, 60, 0, 0.9)] * 18
    assert diagnose(truth, scenes.predictions([*errors, (0, 0, 10, 0, 0.1)]), HALF).missed == 0
    # With nineteen errors, precision is exactly 0.05.
    assert diagnose(truth, scenes.predictions([*errors, errors[0], (0, 0, 10, 0, 0.1)]), HALF).missed == 1


def test_without_durations_no_instance_has_a_coverage():
    diagnosis = diagnose(scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([(0, 0, 10, 0, 1)]), HALF)
    assert [bucket.instances for bucket in diagnosis.buckets["coverage"]] == [0] * 5
    assert "coverage XS" in diagnosis.table()


def test_a_segment_that_ends_a_little_after_its_video_covers_all_of_it():
    truth = with_durations(scenes.ground_truth([(0, 0, 10.005, 0)]), 10, 10, 10)
    assert diagnose(truth, scenes.predictions([]), HALF).buckets["coverage"][-1].instances == 1


def test_what_shares_time_with_an_ambiguous_instance_is_no_error():
    truth = replace(scenes.ground_truth([(0, 0, 10, 0), (0, 20, 30, 2)]), labels=("run", "jump", "Ambiguous"))
    found = scenes.predictions([(0, 22, 28, 0, 0.9), (0, 0, 10, 0, 0.8)])
    diagnosis = diagnose(truth, found, THUMOS14)
    assert shares(diagnosis) == {"spared": 1}
    assert shares(diagnosis, 1) == {"true positive": 1}
    assert diagnosis.normalized_map == 1


def test_predictions_of_classes_without_instances_are_left_aside():
    truth, found = scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([(0, 0, 10, 1, 0.9)])
    diagnosis = diagnose(truth, found, HALF)
    assert diagnosis.profile == ()
    assert diagnosis.missed == 1
    assert "true positive" not in diagnosis.table()


def test_instances_without_length_are_left_aside():
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 5, 5, 0)])
    assert diagnose(truth, scenes.predictions([(0, 0, 10, 0, 1)]), HALF).missed == 0
    with pytest.raises(InvalidOptions, match="no instance with a length"):
        diagnose(scenes.ground_truth([(0, 5, 5, 0)]), scenes.predictions([]), HALF)


def test_figures_equal_those_of_detads_published_code():
    stored = json.loads((Path(__file__).parent / "detad_figures.json").read_text())
    truth = parse_ground_truth(stored["ground_truth"])
    found = parse_predictions(stored["predictions"], truth)
    diagnosis = diagnose(truth, found, Protocol("three", tuple(stored["tious"])), BORDERS["activitynet"])
    expected = stored["figures"]
    assert diagnosis.normalized_map == pytest.approx(expected["normalized_map"], abs=1e-12)
    assert diagnosis.top_normalized_map == pytest.approx(expected["top_normalized_map"], abs=1e-12)
    assert diagnosis.gains == pytest.approx(expected["gains"], abs=1e-12)
    assert len(diagnosis.profile) == len(expected["profile"])
    for part, wanted in zip(diagnosis.profile, expected["profile"], strict=True):
        assert part == pytest.approx(wanted, abs=1e-12)
    for name, wanted in expected["buckets"].items():
        some = {bucket.name: [bucket.normalized_map, bucket.missed] for bucket in diagnosis.buckets[name]}
        assert {key: some[key] for key in wanted} == {
            key: pytest.approx(pair, abs=1e-12) for key, pair in wanted.items()
        }


@given(scenes.true_rows, scenes.predicted_rows)
def test_shares_add_up_and_removing_errors_never_costs(true, found):
    truth = with_durations(scenes.ground_truth(true), 20, 20, 20)
    diagnosis = diagnose(truth, scenes.predictions(found), Protocol("two", (0.3, 0.7)))
    for part in diagnosis.profile:
        assert sum(part.values()) == pytest.approx(1)
    assert min(diagnosis.gains.values()) >= -1e-12
    for some in diagnosis.buckets.values():
        assert sum(bucket.instances for bucket in some) == len(true)
        missed = sum(bucket.instances * (bucket.missed or 0) for bucket in some)
        assert missed / len(true) == pytest.approx(diagnosis.missed)


@given(scenes.true_rows)
def test_predictions_of_all_instances_and_nothing_else_find_everything(true):
    distinct = sorted(set(true))
    found = scenes.predictions([(*row, 1) for row in distinct])
    diagnosis = diagnose(scenes.ground_truth(distinct), found, HALF)
    assert diagnosis.normalized_map == pytest.approx(1)
    assert diagnosis.missed == 0


def test_a_diagnosis_is_json_and_a_table():
    truth = with_durations(scenes.ground_truth([(0, 0, 10, 0), (1, 0, 40, 1)]), 20, 50, 50)
    found = scenes.predictions([(0, 0, 10, 0, 0.9), (1, 0, 40, 0, 0.7)])
    diagnosis = diagnose(truth, found, HALF)
    document = json.loads(json.dumps(diagnosis.as_dict(), allow_nan=False))
    assert document["profile"][0] == dict.fromkeys(KINDS[:-1], 0) | {"true positive": 1}
    assert document["buckets"]["length_s"][-1] == {
        "name": "XL",
        "above": 180,
        "up_to": None,
        "instances": 0,
        "normalized_map": None,
        "missed": None,
    }
    lines = [line.split() for line in diagnosis.table().split("\n")]
    assert lines[0] == ["top", "predictions", "1G", "2G"]
    assert ["true", "positive", "100.00", "0.00"] in lines
    assert ["wrong", "label", "0.00", "100.00"] in lines
    assert ["all", "50.00", "50.00"] in lines
    assert ["length_s", "S", "1", "0.00", "100.00"] in lines
    assert ["length_s", "XL", "0", "-", "-"] in lines


def test_borders_follow_the_protocols_data_set():
    assert borders_of(PROTOCOLS["multithumos"]) == borders_of(THUMOS14) == BORDERS["thumos14"]
    assert borders_of(PROTOCOLS["activitynet"]) == borders_of(HALF) == BORDERS["activitynet"]
    truth, found = scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([(0, 0, 10, 0, 1)])
    own = diagnose(truth, found, HALF, Borders((0, 1), (0, 5, 10), (0, 1)))
    assert [bucket.instances for bucket in own.buckets["length_s"]] == [0, 1]


def test_the_diagnosis_runs_without_torch_and_without_matplotlib():
    command = (
        "import sys; import training.evaluation.diagnosis, training.evaluation.plots; "
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[3])
