"""Class scores of whole videos, read from the forms in which they were published, and what they make of proposals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.postprocessing import Fusion
from service.errors import InvalidOptions
from training.datasets import catalog as datasets
from training.evaluation import video_scores
from training.evaluation.annotations import parse_predictions
from training.evaluation.protocols import PROTOCOLS, evaluate


def cuhk(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "cuhk.json"
    path.write_text(json.dumps({"class": ["a", "b", "c"], "results": {"abc": [0.1, 0.7, 0.2]}} | changes))
    return path


def untrimmednet(tmp_path: Path, table: np.ndarray) -> Path:
    path = tmp_path / "scores.npy"
    np.save(path, table)
    return path


PREDICTIONS = {
    "version": "1.3",
    "results": {
        "abc": [
            {"label": "action", "segment": [1.0, 2.0], "score": 0.5},
            {"label": "action", "segment": [3, 4], "score": 0.4},
        ],
        "other": [{"label": "action", "segment": [0.0, 1.0], "score": 0.3}],
    },
}


def test_proposals_get_the_names_of_the_likeliest_classes(tmp_path: Path) -> None:
    scores = video_scores.read("cuhk", cuhk(tmp_path))
    found = video_scores.named(PREDICTIONS, scores, Fusion(rule="product", classes=2))["results"]
    assert [(one["label"], one["segment"][0], pytest.approx(one["score"])) for one in found["abc"]] == [
        ("b", 1.0, 0.35),
        ("b", 3, 0.28),
        ("c", 1.0, 0.1),
        ("c", 3, 0.08),
    ]
    assert found["other"] == []
    assert scores.lacking(["abc", "v_abc", "other"]) == ["other"]
    roots = video_scores.named(PREDICTIONS, scores, Fusion(rule="sqrt", classes=1))["results"]["abc"]
    assert [one["score"] for one in roots] == pytest.approx([0.35**0.5, 0.28**0.5])
    plain = video_scores.named(PREDICTIONS, scores, Fusion(rule="none", classes=1))["results"]["abc"]
    assert [one["score"] for one in plain] == [0.5, 0.4]


def test_untrimmednets_rows_are_numbers_of_test_videos(tmp_path: Path) -> None:
    table = np.zeros((3, 101))
    table[1, 6], table[1, 96], table[1, 0] = 1.0, 0.5, 0.5  # BaseballPitch, VolleyballSpiking, and one of no interest
    scores = video_scores.read("untrimmednet", untrimmednet(tmp_path, table))
    assert len(scores.labels) == 20
    row = scores.of("video_test_0000002")
    assert row is not None
    assert dict(zip(scores.labels, row, strict=True)) | {"BaseballPitch": 0.5, "VolleyballSpiking": 0.25} == dict(
        zip(scores.labels, row, strict=True)
    )
    assert row.sum() == pytest.approx(0.75)
    assert scores.lacking(["video_test_0000004", "video_validation_0000001", "video_test_0000003"]) == [
        "video_test_0000004",
        "video_validation_0000001",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class": "a"}, "class is str"),
        ({"results": [1]}, "results is list"),
        ({"results": {"abc": [0.1]}}, "3 finite scores from 0 on are needed"),
        ({"results": {"abc": [0.1, -1, 0]}}, "3 finite scores from 0 on"),
        ({"results": {"abc": ["x", 1, 0]}}, "no row of numbers"),
    ],
)
def test_files_that_are_wrong_are_told(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        video_scores.read("cuhk", cuhk(tmp_path, **changes)).of("abc")


def test_arrays_that_are_wrong_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"shape \(3, 20\)"):
        video_scores.read("untrimmednet", untrimmednet(tmp_path, np.zeros((3, 20))))
    with pytest.raises(InvalidOptions, match="no array of numbers"):
        video_scores.read("untrimmednet", cuhk(tmp_path))
    with pytest.raises(InvalidOptions, match="accepted are cuhk, untrimmednet"):
        video_scores.read("other", cuhk(tmp_path))


def test_torch_is_not_imported() -> None:
    code = "import sys, training.evaluation.video_scores; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.needs_assets
def test_untrimmednets_published_scores_name_thumos14s_videos(assets: Path) -> None:
    """Perfect proposals: the annotated segments, under the names that the scores give them."""
    folder = assets / "annotations"
    truth = datasets.read("thumos14", folder / "thumos14_test_gt.json", "test").ground_truth
    scores = video_scores.read("untrimmednet", folder / "thumos14_untrimmednet_scores.npy")
    assert scores.lacking(truth.videos) == []
    assert set(scores.labels) == set(truth.labels)
    likeliest = [scores.labels[int(np.argmax(scores.of(video)))] for video in truth.videos]
    own = [
        {truth.labels[label] for label in truth.label_indices[truth.video_indices == index]}
        for index in range(len(truth.videos))
    ]
    right = np.mean([name in labels for name, labels in zip(likeliest, own, strict=True)])
    assert right > 0.8
    proposals = {
        video: [
            {"label": "action", "segment": segment.tolist(), "score": 1.0}
            for segment in truth.segments_s[truth.video_indices == index]
        ]
        for index, video in enumerate(truth.videos)
    }
    named = video_scores.named({"results": proposals}, scores, Fusion(rule="product", classes=2))
    result = evaluate(truth, parse_predictions(named, truth), PROTOCOLS["thumos14"])
    assert 0.7 < result.average < 1
