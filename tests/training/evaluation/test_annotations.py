"""Files of ground truth and predictions: what is read, and how all that is wrong with them is told at once."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidOptions
from tests.training.evaluation import scenes
from training.evaluation.annotations import (
    Allowance,
    parse_ground_truth,
    parse_predictions,
    read_ground_truth,
    read_predictions,
    without_duplicates,
)

TRUTH = {
    "database": {
        "a": {
            "subset": "validation",
            "duration": 30.0,
            "annotations": [{"segment": [1, 5.5], "label": "run"}, {"segment": [20, 30], "label": "jump"}],
        },
        "b": {"subset": "validation", "duration": 10, "annotations": []},
        "c": {"subset": "training", "duration": 10, "annotations": [{"segment": [0, 1], "label": "swim"}]},
    }
}


def entry(**changes):
    return {"label": "run", "segment": [1, 2], "score": 0.5} | changes


def problems(call):
    with pytest.raises(InvalidOptions) as caught:
        call()
    return str(caught.value).split("\n")


def test_a_subset_is_read_with_its_empty_videos_and_the_labels_of_the_whole_file():
    truth = parse_ground_truth(TRUTH, "validation")
    assert truth.videos == ("a", "b")
    assert truth.labels == ("jump", "run", "swim")
    assert truth.video_indices.tolist() == [0, 0]
    assert truth.label_indices.tolist() == [1, 0]
    assert truth.segments_s.tolist() == [[1, 5.5], [20, 30]]
    assert truth.durations_s.tolist() == [30, 10]


@pytest.mark.parametrize("wrap", [lambda items: {"results": items, "version": "1"}, lambda items: items])
def test_predictions_are_read_with_and_without_the_outer_mapping(tmp_path, wrap):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "found.json").write_text(json.dumps(wrap({"b": [entry()], "a": [entry(label="swim", score=1)]})))
    truth = read_ground_truth(tmp_path / "truth.json", "validation")
    found = read_predictions(tmp_path / "found.json", truth)
    assert found.video_indices.tolist() == [1, 0]
    assert found.label_indices.tolist() == [1, 2]
    assert found.scores.tolist() == [0.5, 1]


def test_no_predictions_are_arrays_without_rows():
    found = parse_predictions({"results": {"a": []}}, parse_ground_truth(TRUTH))
    assert found.segments_s.shape == (0, 2)
    assert found.scores.shape == (0,)


def test_all_problems_of_the_ground_truth_come_at_once():
    database = {
        "a": {
            "duration": 10,
            "annotations": [
                {"segment": [5, 5], "label": "run"},
                {"segment": [6, 5], "label": "run"},
                {"segment": [5, 11], "label": "run"},
                {"segment": [-1, 5]},
                {"segment": ["1", "2"], "label": 3},
                "run",
                {"segment": [0, 1], "label": "run"},
            ],
        },
        "b": {"duration": 0, "annotations": None},
        "c": 7,
    }
    assert problems(lambda: parse_ground_truth({"database": database})) == [
        "11 problems in the ground truth:",
        "video 'a', item 0: segment [5.0, 5.0] has no positive length; end must exceed start",
        "video 'a', item 1: segment [6.0, 5.0] has no positive length; end must exceed start",
        "video 'a', item 2: segment [5.0, 11.0] ends after the video, which lasts 10.0 s",
        "video 'a', item 3: segment [-1.0, 5.0] starts before 0",
        "video 'a', item 3: key 'label' is missing; the name of a class is needed",
        "video 'a', item 4: segment is ['1', '2']; [start, end] as two numbers of seconds is needed",
        "video 'a', item 4: label is 3; the name of a class is needed",
        "video 'a', item 5: is str 'run'; a mapping is needed",
        "video 'b': duration is 0; a number of seconds above 0 is needed",
        "video 'b': has nothing for its annotations; a list is needed",
        "video 'c': is int 7; a mapping is needed",
    ]


def test_all_problems_of_predictions_come_at_once():
    results = {
        "a": [
            entry(segment=[25, 31]),
            entry(segment=[math.nan, 2]),
            entry(label="fly"),
            entry(score="high"),
            entry(score=math.nan),
            entry(score=True),
            entry(score=10**400),
            {"label": "run"},
            entry(segment=[1, 2, 3]),
            entry(),
        ],
        "c": [entry()],
        "d": [entry()],
    }
    truth = parse_ground_truth(TRUTH, "validation")
    assert problems(lambda: parse_predictions({"results": results}, truth)) == [
        "12 problems in the predictions:",
        "video 'a', item 0: segment [25.0, 31.0] ends after the video, which lasts 30.0 s",
        "video 'a', item 1: segment is [nan, 2.0]; only finite numbers are accepted",
        "video 'a', item 2: label 'fly' is none of the 3 of the ground truth",
        "video 'a', item 3: score is 'high'; a finite number is needed",
        "video 'a', item 4: score is nan; a finite number is needed",
        "video 'a', item 5: score is True; a finite number is needed",
        f"video 'a', item 6: score is {10**400}; a finite number is needed",
        "video 'a', item 7: key 'segment' is missing; [start, end] in seconds is needed",
        "video 'a', item 7: key 'score' is missing; a number is needed",
        "video 'a', item 8: segment is [1, 2, 3]; [start, end] as two numbers of seconds is needed",
        "video 'c': is of subset 'training', which is not evaluated",
        "video 'd': is not a video of the ground truth",
    ]


def test_what_is_allowed_passes():
    database = {"a": {"duration": 10, "annotations": [{"segment": [4, 4], "label": "run"}]}}
    allowance = Allowance(overrun_s=1, empty=True, unknown_videos=True)
    truth = parse_ground_truth({"database": database}, allowance=allowance)
    found = parse_predictions({"a": [entry(segment=[9, 10.5])], "x": [entry()]}, truth, allowance)
    assert truth.segments_s.tolist() == [[4, 4]]
    assert found.video_indices.tolist() == [0, 1]


@pytest.mark.parametrize("content", [[], {"database": []}, {}, None])
def test_a_file_of_another_form_is_refused(content):
    with pytest.raises(InvalidOptions, match="a mapping of videos is needed"):
        parse_ground_truth(content)


def test_predictions_that_are_no_mapping_are_refused():
    with pytest.raises(InvalidOptions, match="'results'; a mapping of videos is needed"):
        parse_predictions([1], parse_ground_truth(TRUTH))


def test_a_subset_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(InvalidOptions, match="no video of subset 'test'; subsets in it: training, validation"):
        parse_ground_truth(TRUTH, "test")


def test_files_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(InvalidOptions, match="No such file"):
        read_ground_truth(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InvalidOptions, match=r"bad\.json is not JSON"):
        read_ground_truth(tmp_path / "bad.json")


def test_duplicates_are_dropped_as_actionformer_drops_them():
    with np.load(Path(__file__).parents[2] / "golden" / "evaluation" / "outputs.npz", allow_pickle=False) as stored:
        given, kept = stored["dedup/in_start_end_label"], stored["dedup/kept_start_end_label"]
    truth = without_duplicates(scenes.ground_truth([(0, *row) for row in given]))
    np.testing.assert_array_equal(np.column_stack([truth.segments_s, truth.label_indices]), kept)


def test_equal_segments_of_other_videos_or_labels_are_no_duplicates():
    truth = scenes.ground_truth([(0, 1, 2, 0), (1, 1, 2, 0), (0, 1, 2, 1), (0, 1, 2, 0)])
    assert len(without_duplicates(truth).segments_s) == 3
