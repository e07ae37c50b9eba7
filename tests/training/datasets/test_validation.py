"""A data set that no reader made may be wrong in every way; all of it is told at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidOptions
from training.datasets.dataset import Dataset
from training.datasets.validation import check, feature_notes, feature_of, find_features, validate
from training.evaluation.annotations import GroundTruth


def dataset(segments_s=((1.0, 2.0),), *, videos=("a", "b"), labels=("jump",), durations_s=(10.0, np.nan), fps=None):
    count = len(segments_s)
    truth = GroundTruth(
        tuple(videos),
        tuple(labels),
        np.zeros(count, dtype=np.int64),
        np.array(segments_s, dtype=np.float64).reshape(-1, 2),
        np.zeros(count, dtype=np.int64),
        np.array(durations_s),
        {"c": "test"},
    )
    return Dataset("made", truth, fps or {}, "activitynet")


def test_a_sound_data_set_has_no_problems():
    features = {"a": Path("a.npy"), "b": Path("b.npy")}
    assert check(dataset(fps={"a": 25.0}), features, ["jump", "run"]) == ()
    validate(dataset(), features)


@pytest.mark.parametrize(
    ("segment_s", "problem"),
    [
        ((1.0, 1.0), "has no length"),
        ((2.0, 1.0), "ends before it starts"),
        ((-1.0, 1.0), "starts before 0"),
        ((1.0, 10.5), "ends after its video, which lasts 10.0 s"),
        ((np.nan, 1.0), "holds no finite numbers"),
        ((1.0, np.inf), "holds no finite numbers"),
    ],
)
def test_every_fault_of_a_segment_is_a_problem(segment_s, problem):
    (told,) = check(dataset([(1.0, 2.0), segment_s]))
    assert told.startswith("video 'a', instance 1: segment")
    assert told.endswith(problem)


def test_all_problems_come_in_one_error():
    wrong = dataset([(1.0, 1.0)], durations_s=(10.0, -3.0), fps={"a": 0.0, "z": 25.0})
    with pytest.raises(InvalidOptions) as caught:
        validate(replace(wrong, protocol="olympics"), {"a": Path("a.npy")}, ["run"])
    message = str(caught.value)
    for part in (
        "7 problems in made:",
        "video 'b': duration is -3.0",
        "video 'a': fps is 0.0",
        "video 'z' has a frame rate",
        "protocol 'olympics' is not known",
        "label 'jump' is none of the 1 given",
        "video 'b': no feature file",
        "has no length",
    ):
        assert part in message


def test_names_that_come_twice_are_problems():
    told = check(dataset(videos=("a", "a"), labels=("jump", "jump")))
    assert told == ("video 'a' is there more than once", "label 'jump' is there more than once")


def test_instances_of_no_video_or_label_are_a_problem():
    assert check(dataset(videos=(), durations_s=())) == ("an instance is of a video or label that the data set lacks",)
    assert check(dataset(labels=())) == ("an instance is of a video or label that the data set lacks",)


def test_features_are_found_by_stem_and_with_or_without_the_prefix_of_activitynet(tmp_path):
    for name in ("v_a.npy", "b.npz", "b.pt", "c.pkl", "notes.txt", "features.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder.npy").mkdir()
    features = find_features(tmp_path)
    assert features == {"v_a": tmp_path / "v_a.npy", "b": tmp_path / "b.npz"}
    assert feature_of("a", features) == tmp_path / "v_a.npy"
    assert feature_of("v_b", features) == tmp_path / "b.npz"
    assert feature_of("v_z", features) is None
    assert check(dataset(), features) == ()


def test_feature_files_of_no_video_are_a_note_and_those_of_other_subsets_are_none():
    features = {name: Path(f"{name}.npy") for name in ("v_a", "b", "c", "spare")}
    assert check(dataset(), features) == ()
    assert feature_notes(dataset(), features) == ("1 feature files belong to no annotated video: spare",)
    assert feature_notes(dataset(), {"a": Path("a.npy")}) == ()


def test_two_files_of_one_video_and_a_missing_folder_are_refused(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "a.npz").touch()
    with pytest.raises(InvalidOptions, match="features of one video"):
        find_features(tmp_path)
    with pytest.raises(InvalidOptions, match="is not a folder"):
        find_features(tmp_path / "nowhere")
