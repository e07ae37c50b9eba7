"""What is written as JSON in ActivityNet's form is read back as it was."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.training.datasets import public_files
from training.datasets.catalog import read
from training.datasets.dataset import Dataset
from training.datasets.writing import write_activitynet
from training.evaluation.annotations import GroundTruth

NAMES = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True)


@st.composite
def datasets(draw):
    videos, labels = draw(NAMES), draw(NAMES)
    durations_s = [draw(st.none() | st.floats(1e-3, 1e5)) for _ in videos]
    rows = []
    for index, duration_s in enumerate(durations_s):
        for _ in range(draw(st.integers(0, 3))):
            ends = st.floats(0, duration_s or 1e5)
            rows.append((index, *sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))))
    chosen = [draw(st.integers(0, len(labels) - 1)) for _ in rows]
    truth = GroundTruth(
        tuple(videos),
        tuple(labels),
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2),
        np.array(chosen, dtype=np.int64),
        np.array([np.nan if duration_s is None else duration_s for duration_s in durations_s], dtype=np.float64),
    )
    stated = st.sets(st.sampled_from(videos))
    fps = {video: draw(st.floats(1, 240)) for video in draw(stated)}
    subsets = {video: draw(st.sampled_from(["training", "test"])) for video in draw(stated)}
    return Dataset("made", truth, fps, "activitynet", (), subsets)


def same(one, other):
    for name in ("video_indices", "segments_s", "label_indices", "durations_s"):
        np.testing.assert_array_equal(getattr(one.ground_truth, name), getattr(other.ground_truth, name))
    assert one.ground_truth.videos == other.ground_truth.videos
    assert one.ground_truth.labels == other.ground_truth.labels
    assert (one.fps, one.subsets) == (other.fps, other.subsets)


def through_a_file(dataset, folder):
    path = Path(folder) / "written.json"
    path.write_text(json.dumps(write_activitynet(dataset), allow_nan=False), encoding="utf-8")
    return read("json", path)


@given(datasets())
def test_reading_undoes_writing(dataset):
    with tempfile.TemporaryDirectory() as folder:
        same(dataset, through_a_file(dataset, folder))


def test_a_public_form_comes_through_plain_json(tmp_path):
    for name, make in (("charades", public_files.charades), ("epic-kitchens-100", public_files.epic_kitchens)):
        dataset = read(name, make(tmp_path / name))
        same(dataset, through_a_file(dataset, tmp_path))
